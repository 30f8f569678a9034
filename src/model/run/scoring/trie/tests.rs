use proptest::prelude::*;

use super::*;

const END: u32 = 2;

#[test]
fn what_labels_share_is_one_node_and_terminators_are_none() {
    // cat, caterpillar, dog.
    let trie = LabelTrie::new(&[vec![7, END], vec![7, 8, 9, END], vec![5, END]]);
    assert_eq!(trie.tokens(), [7, 8, 9, 5]);
    assert_eq!(trie.parents(), [None, Some(0), Some(1), None]);
    assert_eq!((trie.depths(), trie.depth(), trie.n_nodes()), (&[0, 1, 2, 0][..], 3, 4));
    let edges: Vec<(usize, u32)> = trie.edges.iter().map(|edge| (edge.source, edge.token)).collect();
    assert_eq!(edges, [(0, 5), (0, 7), (1, END), (1, 8), (2, 9), (3, END), (4, END)]);
    assert_eq!(trie.edges_from(1..3).0, 2..5);
    assert_eq!(trie.sums(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]), [6.0, 58.0, 65.0]);
}

#[test]
fn a_label_of_nothing_but_its_terminator_needs_no_node() {
    let trie = LabelTrie::new(&[vec![END]]);
    assert_eq!((trie.n_nodes(), trie.depth(), trie.n_edges()), (0, 0, 1));
}

proptest! {
    #[test]
    fn every_label_is_spelt_by_its_path(
        sequences in prop::collection::vec(prop::collection::vec(0..4u32, 1..6), 1..20)
    ) {
        let trie = LabelTrie::new(&sequences);
        for (sequence, path) in sequences.iter().zip(&trie.paths) {
            let spelt: Vec<u32> = path.iter().map(|&edge| trie.edges[edge].token).collect();
            prop_assert_eq!(&spelt, sequence);
            // The source of each edge is the node to which the previous edge leads.
            for (depth, pair) in path.windows(2).enumerate() {
                let node = trie.edges[pair[1]].source - 1;
                prop_assert_eq!(trie.tokens[node], trie.edges[pair[0]].token);
                prop_assert_eq!(trie.depths[node], depth);
                prop_assert_eq!(trie.parents[node].map_or(0, |parent| parent + 1), trie.edges[pair[0]].source);
            }
        }
        prop_assert!(trie.parents.iter().enumerate().all(|(node, parent)| parent.is_none_or(|p| p < node)));
        let n_distinct = sequences.iter().flat_map(|s| (1..=s.len()).map(|n| &s[..n])).collect::<std::collections::BTreeSet<_>>().len();
        prop_assert_eq!(trie.n_edges(), n_distinct);
    }
}
