#!/usr/bin/env python3
"""Writes src/assets/lexicon.tsv, the WordNet excerpt that the rules grade with.

    python3 tests/golden/make_lexicon.py NAMES WORDNET > src/assets/lexicon.tsv

NAMES holds class names: clip_imagenet_classes_templates.json (CLIP's names, in class order), ovqa/ (fixed names,
class index) and nbdt/ (WordNet ids of CIFAR-10, CIFAR-100, Tiny ImageNet). WORDNET is WordNet 3.0's `dict` folder
(data.noun and index.noun; Debian's package wordnet-base has it), whose byte offsets are the digits of WordNet ids.

Rows, tab-separated:
    S id aliases other-lemmas parents   a synset; `|` between lemmas, `,` between ids
    N name id                           a label's name and the synset it means
    C compound ids                      a noun that ends in a label's name, and the labels' synsets it is a kind of
"""
import json
import sys
from collections import defaultdict
from pathlib import Path

NAMES, WORDNET = Path(sys.argv[1]), Path(sys.argv[2])

# Where nbdt's automatic choice of a sense is not what CIFAR-100 shows (skunk: "shutout", dolphin: the fish, ...).
CIFAR100_SENSES = {
    "dolphin": "n02068974", "skunk": "n02445715", "television": "n04405907", "trout": "n02537085",
    "sweet_pepper": "n07720615", "maple_tree": "n12752205", "aquarium_fish": None, "poppy": "n11900569",
}
# Everyday words of several senses, of which only one can be meant under these labels.
HAND_ALIASES = {
    "airplane": ["plane", "aeroplane"], "automobile": ["car", "motorcar"], "truck": ["lorry"],
    "telephone": ["phone"], "television": ["tv", "tv set", "telly", "television set"],
    "streetcar": ["tram", "tramcar", "trolley car"], "motorcycle": ["motorbike", "motor cycle"],
    "cattle": ["cow"], "possum": ["opossum"], "lawn_mower": ["lawnmower"], "couch": ["sofa"],
    "sweet_pepper": ["bell pepper"], "pickup_truck": ["pickup"], "chimpanzee": ["chimp"],
    "aquarium_fish": ["aquariumfish"], "bus": ["omnibus", "motorbus", "motorcoach"],
    "maple_tree": ["maple"], "oak_tree": ["oak"], "palm_tree": ["palm"], "pine_tree": ["pine"],
    "willow_tree": ["willow"], "boy": ["male child"], "bird": [], "cat": [], "dog": [],
}
# Lemmas that would credit an unclear answer.
NEVER_ALIASES = {"machine", "auto", "span", "lounge", "miss", "wheel", "cycle", "field", "press", "closet",
                 "hedgehog", "route", "projectile", "paprika", "pimento", "double-decker", "mahimahi", "video"}
# Plain adjectives: `a black cat` is a cat, although WordNet also knows a marten of that name.
ADJECTIVES = set("""big small large little tiny huge black white red green blue yellow brown grey gray orange pink purple
golden dark light bright old new young wild domestic dirty fat clean cold flat great common ordinary native adult
female male""".split())
# Ancestors that say nothing about an image.
TOP = {"n00001740", "n00001930", "n00002137", "n00002452", "n00002684", "n00003553", "n00004258", "n00004475",
       "n00007347", "n00020827", "n00019613", "n00021939", "n00022903", "n00019128", "n03575240", "n00031264",
       "n00033020", "n00024720", "n00027167", "n00020090", "n00021265"}


def read_wordnet():
    synsets = {}
    for line in (WORDNET / "data.noun").read_text(encoding="latin-1").splitlines():
        if line.startswith(" "):
            continue
        fields = line.split(" | ")[0].split()
        n_words = int(fields[3], 16)
        words = [fields[4 + 2 * i].replace("_", " ") for i in range(n_words)]
        at = 4 + 2 * n_words
        pointers = fields[at + 1:]
        parents, instance = [], False
        for i in range(int(fields[at])):
            symbol, target, pos = pointers[4 * i: 4 * i + 3]
            if symbol == "@" and pos == "n":
                parents.append("n" + target)
            instance |= symbol == "@i"
        synsets["n" + fields[0]] = (words, parents, instance)
    senses = {}
    for line in (WORDNET / "index.noun").read_text(encoding="latin-1").splitlines():
        if not line.startswith(" "):
            fields = line.split()
            senses[fields[0].replace("_", " ")] = ["n" + f for f in fields[-int(fields[2]):]]
    return synsets, senses


synsets, senses = read_wordnet()
synsets["x00000001"] = (["aquarium fish"], ["n02512053"], False)


def ancestors(synset):
    found, stack = set(), [synset]
    while stack:
        for parent in synsets[stack.pop()][1]:
            if parent not in found:
                found.add(parent)
                stack.append(parent)
    return found


def read_labels():
    """Synset to its label names, best first, and the hand aliases by synset."""
    names, hand, taken = defaultdict(list), defaultdict(list), {}

    def add(name, synset):
        name = name.replace("_", " ")
        if taken.setdefault(name.lower(), synset) == synset and name not in names[synset]:
            names[synset].append(name)

    cifar10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
    for name, synset in zip(cifar10, (NAMES / "nbdt/wnids_CIFAR10.txt").read_text().split()):
        add(name, synset)
        hand[synset] += HAND_ALIASES.get(name, [])
    cifar100 = (
        "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
        "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
        "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard "
        "lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear "
        "pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal "
        "shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank "
        "telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
    ).split()
    for name, synset in zip(cifar100, (NAMES / "nbdt/wnids_CIFAR100.txt").read_text().split()):
        synset = CIFAR100_SENSES.get(name, synset) or "x00000001"
        add(name, synset)
        hand[synset] += HAND_ALIASES.get(name, [])
    cifar = set(names)
    index = json.loads((NAMES / "ovqa/imagenet_class_index.json").read_text())
    clip = json.loads((NAMES / "clip_imagenet_classes_templates.json").read_text())["imagenet_classes"]
    fixed = json.loads((NAMES / "ovqa/clip_benchmark_classes_fixed.json").read_text())
    twice = {name for name in clip if clip.count(name) > 1}
    for i in range(1000):
        if clip[i] not in twice:
            add(clip[i], index[str(i)][0])
        add(fixed[i], index[str(i)][0])
    imagenet = [index[str(i)][0] for i in range(1000)]
    tiny = (NAMES / "nbdt/wnids_TinyImagenet200.txt").read_text().split()
    for synset in imagenet + [s for s in tiny if s not in names]:
        lemma = synsets[synset][0][0]
        add(lemma, synset)
    return names, hand, cifar


names, hand, cifar = read_labels()
name_owner = {name.lower(): synset for synset, all_names in names.items() for name in all_names}


def is_alias(lemma, synset):
    """Only what means this synset and nothing else."""
    key = lemma.lower()
    return (name_owner.get(key, synset) == synset and key not in NEVER_ALIASES
            and all(s == synset or s not in names for s in senses.get(key, [])) and len(senses.get(key, [])) <= 1)


def is_usual(lemma, synset):
    """A word whose first sense this is, or whose second where no dataset has a class of that name."""
    key = lemma.lower()
    n_senses = 1 if key in name_owner and name_owner[key] != synset else 2
    return synset in senses.get(key, [synset])[:n_senses]


wanted = set(names)
for synset in list(names):
    wanted |= ancestors(synset)
# Kinds of the CIFAR labels that have everyday names: three steps down, without instances.
for synset, (words, parents, instance) in synsets.items():
    if not instance and synset not in wanted:
        level, seen = {synset}, {synset}
        for _ in range(3):
            level = {p for s in level for p in synsets[s][1]}
            seen |= level
            if level & cifar:
                wanted |= {s for s in seen if ancestors(s) & cifar or s in cifar}
                break
wanted -= TOP

rows = []
for synset in sorted(wanted):
    words, parents, _ = synsets[synset]
    all_ancestors = ancestors(synset)
    if synset not in names and not (all_ancestors & cifar) and not any(is_usual(w, synset) for w in words):
        words = []
    # The first name is the label's own; the others need to be as clear as any lemma.
    named = names.get(synset, [])
    own = named[:1] + [w for w in named[1:] + words if is_alias(w, synset)] + hand.get(synset, [])
    other = [w for w in words if w not in own and is_usual(w, synset)]
    aliases = list(dict.fromkeys(own)) if synset in names else []
    other = other if synset in names else [w for w in words if is_usual(w, synset)]
    rows.append(("S", synset, "|".join(aliases), "|".join(other), ",".join(p for p in parents if p in wanted)))
for synset in sorted(names):
    for name in names[synset]:
        rows.append(("N", name, synset))

heads = defaultdict(set)
for synset in names:
    row_aliases = next(r[2] for r in rows if r[0] == "S" and r[1] == synset).split("|")
    for alias in row_aliases:
        heads[alias.lower()].add(synset)
for lemma in sorted(senses):
    words = lemma.split()
    if all(synsets[s][2] for s in senses[lemma]) or not all(w.replace("-", "").replace("'", "").isalpha() for w in words):
        continue
    owners = set().union(*(heads.get(" ".join(words[i:]), set()) for i in range(1, len(words))), set())
    under = set().union(*({s} | ancestors(s) for s in senses[lemma]))
    if owners - under and not all(w in ADJECTIVES for w in words[:-1]):
        rows.append(("C", lemma, ",".join(sorted(owners & under))))

print("# An excerpt of WordNet 3.0 with class names of CLIP (MIT), ovqa (Apache-2.0) and nbdt (MIT), written by")
print("# tests/golden/make_lexicon.py, which describes the rows; not by hand. WordNet's licence:")
for line in (WORDNET / "data.noun").read_text(encoding="latin-1").splitlines():
    if not line.startswith("  "):
        break
    print("# " + line.split(maxsplit=1)[1].strip() if len(line.split()) > 1 else "#")
for row in rows:
    print("\t".join(row))
