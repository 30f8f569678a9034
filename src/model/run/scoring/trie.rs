//! Labels as a tree of tokens. Common prefixes are read once.

use std::collections::BTreeMap;
use std::ops::Range;

/// The token sequences of labels, each with its terminator, as a trie.
///
/// Its *edges* are the tokens. Its *inner nodes* are the nodes that another token follows. Only inner nodes pass
/// through the model: of a last token, only its own probability counts. The root is the end of the prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelTrie {
    /// By inner node, the token that leads to it.
    tokens: Vec<u32>,
    /// By inner node, its parent; `None` is the root. Parents come before their children.
    parents: Vec<Option<usize>>,
    /// By inner node, the number of tokens between the root and it.
    depths: Vec<usize>,
    /// In the order of their sources.
    edges: Vec<Edge>,
    /// By label, its edges.
    paths: Vec<Vec<usize>>,
}

/// A token that may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    /// The node before it: 0 is the root, and `i + 1` is inner node `i`.
    pub source: usize,
    /// The token.
    pub token: u32,
}

impl LabelTrie {
    /// Builds the trie of `sequences`: by label, the tokens that follow the prompt. None may be empty.
    pub fn new(sequences: &[Vec<u32>]) -> Self {
        // By node, the root first: its parent and its children.
        let mut parents = vec![0];
        let mut children: Vec<BTreeMap<u32, usize>> = vec![BTreeMap::new()];
        for sequence in sequences {
            let mut node = 0;
            for &token in sequence {
                node = match children[node].get(&token) {
                    Some(&next) => next,
                    None => {
                        let next = children.len();
                        children[node].insert(token, next);
                        children.push(BTreeMap::new());
                        parents.push(node);
                        next
                    }
                };
            }
        }
        // Sources are the root and the inner nodes, in the order of their first label: parents before children.
        let mut sources: Vec<Option<usize>> = vec![None; children.len()];
        let mut trie = Self { tokens: vec![], parents: vec![], depths: vec![], edges: vec![], paths: vec![] };
        let mut edge_to: Vec<usize> = vec![0; children.len()];
        let inner = (0..children.len()).filter(|&node| node == 0 || !children[node].is_empty());
        for (source, node) in inner.enumerate() {
            sources[node] = Some(source);
            for (&token, &next) in &children[node] {
                edge_to[next] = trie.edges.len();
                trie.edges.push(Edge { source, token });
            }
            if node > 0 {
                let parent = sources[parents[node]].and_then(|source| source.checked_sub(1));
                trie.tokens.push(trie.edges[edge_to[node]].token);
                trie.depths.push(parent.map_or(0, |parent| trie.depths[parent] + 1));
                trie.parents.push(parent);
            }
        }
        for sequence in sequences {
            let mut node = 0;
            let path = sequence.iter().map(|token| {
                node = children[node][token];
                edge_to[node]
            });
            trie.paths.push(path.collect());
        }
        trie
    }

    /// The number of labels.
    pub fn n_labels(&self) -> usize {
        self.paths.len()
    }

    /// The number of inner nodes, which is the number of tokens that a pass over the trie reads after the prompt.
    pub fn n_nodes(&self) -> usize {
        self.tokens.len()
    }

    /// The number of positions after the prompt that the deepest inner node needs.
    pub fn depth(&self) -> usize {
        self.depths.iter().max().map_or(0, |depth| depth + 1)
    }

    pub(super) fn n_edges(&self) -> usize {
        self.edges.len()
    }

    /// The tokens of inner nodes.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(super) fn parents(&self) -> &[Option<usize>] {
        &self.parents
    }

    pub(super) fn depths(&self) -> &[usize] {
        &self.depths
    }

    /// Returns the edges from `sources` and their indices. Sources are numbered as in [`Edge::source`].
    pub(super) fn edges_from(&self, sources: Range<usize>) -> (Range<usize>, &[Edge]) {
        let first = self.edges.partition_point(|edge| edge.source < sources.start);
        let end = self.edges.partition_point(|edge| edge.source < sources.end);
        (first..end, &self.edges[first..end])
    }

    /// Returns, by label, the sum of `values` over its edges. `values` are by edge.
    pub(super) fn sums(&self, values: &[f32]) -> Vec<f32> {
        let sum = |path: &Vec<usize>| path.iter().map(|&edge| f64::from(values[edge])).sum::<f64>() as f32;
        self.paths.iter().map(sum).collect()
    }
}

#[cfg(test)]
mod tests;
