//! The closed lists of English words that the rules use. Content words are the complement of [`is_function_word`].

/// Words without content of their own.
#[rustfmt::skip]
const FUNCTION_WORDS: &[&str] = &[
    "a", "an", "the", "this", "that", "these", "those", "there", "here", "it", "its", "it's", "that's", "there's",
    "i", "i'm", "i'd", "i've", "me", "my", "we", "you", "your", "they", "them", "their", "he", "she", "his", "her",
    "some", "any", "what", "which", "who", "whose", "is", "are", "was", "were", "be", "been", "being", "am", "has",
    "have", "had", "having", "do", "does", "did", "and", "or", "but", "so", "as", "if", "than", "then", "also",
    "both", "either", "of", "to", "for", "with", "very", "quite", "rather", "just", "only", "simply", "answer",
    "label", "class", "category", "prediction", "kind", "type", "sort", "species", "breed", "correct", "final",
    "shows", "showing", "shown", "depicts", "depicting", "depicted", "features", "featuring", "contains",
    "containing", "displays", "see", "think", "believe", "would", "say", "says", "called", "named", "known", "while",
    "looks", "look", "appears", "appear", "seems", "seem", "like", "likely", "probably", "possibly", "perhaps",
    "maybe", "might", "could", "may", "will", "should", "single", "one", "yes", "ok", "okay", "sure", "n",
];

/// Prepositions of place: what follows says where the thing is, not what it is.
#[rustfmt::skip]
const LOCATIVE: &[&str] = &[
    "in", "on", "at", "inside", "into", "within", "under", "underneath", "beneath", "below", "over", "above",
    "behind", "beside", "besides", "near", "between", "among", "amid", "through", "across", "along", "around",
    "against", "onto", "upon", "atop", "outside", "by", "from", "off", "toward", "towards", "past", "next",
];

/// Words that end a phrase of place.
#[rustfmt::skip]
const PHRASE_END: &[&str] = &[
    "is", "are", "was", "were", "has", "have", "had", "with", "and", "or", "but", "that", "which", "who", "while",
    "says", "shows", "showing", "contains", "it's", "that's", "there's",
];

#[rustfmt::skip]
const NEGATORS: &[&str] = &[
    "not", "no", "never", "neither", "nor", "none", "nothing", "without", "isn't", "aren't", "wasn't", "weren't",
    "doesn't", "don't", "didn't", "can't", "cannot", "couldn't", "won't", "wouldn't", "shouldn't", "hasn't",
    "haven't", "ain't", "unlike", "except", "unclear", "unsure", "uncertain", "instead", "neither's", "hardly",
    "isnt", "doesnt", "dont", "false", "incorrect", "wrong", "non",
];

#[rustfmt::skip]
const HEDGES: &[&str] = &[
    "might", "may", "could", "possibly", "probably", "maybe", "perhaps", "seems", "seem", "appears", "appear",
    "likely", "looks", "look", "resembles", "resembling", "resemble", "similar", "guess", "either", "almost",
];

const ALTERNATIVES: &[&str] = &["or", "either", "versus", "vs"];

/// Adjectives that do not change what a thing is.
#[rustfmt::skip]
const HARMLESS_ADJECTIVES: &[&str] = &[
    "big", "large", "small", "little", "tiny", "huge", "giant", "tall", "short", "long", "old", "young", "new",
    "adult", "black", "white", "grey", "gray", "brown", "red", "green", "blue", "yellow", "pink", "purple", "orange",
    "golden", "dark", "light", "bright", "colorful", "colourful", "beautiful", "pretty", "cute", "nice", "lovely",
    "common", "domestic", "wild", "male", "female", "blurry", "pixelated", "handwritten", "two", "three", "several",
    "many", "group", "pair", "bunch", "close", "up",
];

/// Words that may follow a noun without changing what it is.
const HARMLESS_TAILS: &[&str] = &["photo", "picture", "image", "photograph", "species", "breed", "itself"];

/// Verb forms that follow a noun and do not end like a participle.
#[rustfmt::skip]
const VERBS: &[&str] = &[
    "sits", "stands", "flies", "runs", "walks", "swims", "lies", "hangs", "rests", "lays", "jumps", "eats", "grows",
    "moves", "faces", "sat", "stood", "flew", "seen", "made", "held", "parked", "taken", "set", "grown", "driven",
];

/// Nouns that end like a participle.
#[rustfmt::skip]
const NOUNS_IN_ING_OR_ED: &[&str] = &[
    "painting", "drawing", "building", "clothing", "crossing", "training", "racing", "wedding", "morning", "evening",
    "ceiling", "covering", "feeding", "housing", "engraving", "carving", "etching", "lightning", "railing", "siding",
    "stocking", "pudding", "dressing", "stuffing", "string", "spring", "shed", "seed", "weed", "breed", "steed",
    "sled", "bed", "reed",
];

/// Labels that are also adjectives: before another label they only describe it.
const ATTRIBUTIVE: &[&str] =
    &["orange", "plain", "baby", "sea", "mountain", "forest", "road", "house", "rose", "man", "woman", "boy", "girl"];

/// Labels (`can`) or names of months that are far more often helping verbs.
const MODALS: &[&str] = &["can", "may", "will", "might", "must"];

const DETERMINERS: &[&str] = &["a", "an", "the", "this", "that", "one", "single", "some", "is", "of"];

const PRONOUNS: &[&str] =
    &["i", "you", "we", "they", "it", "he", "she", "that", "which", "who", "this", "one", "these", "those"];

/// Zero to twenty in words, for number labels.
pub const NUMBER_WORDS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

/// Words that contradict what was said before.
pub const ADVERSATIVES: &[&str] = &["but", "however", "yet", "though"];

/// Phrases with a negator that deny nothing.
#[rustfmt::skip]
pub const HARMLESS_NEGATIONS: &[&str] = &[
    "no doubt", "without doubt", "without a doubt", "without any doubt", "no question", "without question",
    "without a question", "not only", "not just", "not merely", "not simply", "nothing but", "nothing other than",
    "none other than", "no other than", "not to mention",
];

/// Phrases with which an answer takes back an earlier statement.
#[rustfmt::skip]
pub const CORRECTIONS: &[&str] = &[
    "or rather", "no wait", "wait", "wait no", "i mean", "i meant", "i mean to say", "i meant to say", "scratch that",
    "strike that", "make that", "correction", "on second thought", "on second thoughts", "let me correct", "oops", "my mistake",
    "my bad", "i stand corrected", "sorry", "apologies", "actually no", "i take that back",
];

/// Phrases that deny the noun after them.
#[rustfmt::skip]
pub const NP_DENIALS: &[&str] = &[
    "rather than", "instead of", "as opposed to", "in contrast to", "other than", "anything but", "far from", "rule out", "ruled out",
    "mistaken for", "mistake for", "confused with", "confuse with", "confused for",
];

/// Words that say that the answer is undecided.
pub const UNSURE: &[&str] = &["unclear", "unsure", "uncertain"];

/// Words that, after a denial, say that the answer is undecided.
#[rustfmt::skip]
pub const UNDECIDED: &[&str] = &[
    "sure", "certain", "clear", "possible", "able", "whether", "tell", "know", "determine",
    "identify", "say", "idea", "enough", "recognize", "recognise",
];

/// Words about a thing that is absent: after `not` they deny the subject.
#[rustfmt::skip]
pub const SETTLING: &[&str] = &[
    "visible", "present", "shown", "there", "here", "pictured", "seen", "depicted", "correct", "right", "accurate", "true",
    "case", "included", "found",
];

/// Words of a belief that was given up.
#[rustfmt::skip]
pub const BELIEFS: &[&str] = &[
    "thought", "i first", "at first", "initially", "first glance", "mistook", "assumed", "guessed", "expected", "i believed",
    "first impression", "first guess", "originally",
];

/// Words of a belief that is only given up if something contradicts it.
#[rustfmt::skip]
pub const WEAK_BELIEFS: &[&str] = &[
    "looks", "look", "looked", "seems", "seem", "seemed", "appears", "appear", "appeared", "resembles", "resemble", "resembled", "similar",
    "might", "may", "could", "almost",
];

/// Words that contrast a belief with what follows: `although it looks like a dog, it is a cat`.
pub const COMPARISONS: &[&str] = &["although", "though", "while", "despite", "even though", "even if"];

/// Zero to ten in Chinese and Japanese.
pub const NUMERALS: [&str; 11] = ["零", "一", "二", "三", "四", "五", "六", "七", "八", "九", "十"];

/// Words with which a label's name denies another label's name.
pub const DENIALS_IN_NAMES: &[&str] = &["not", "no", "non", "without"];

/// Phrases that frame an answer, as words; the longest first for each start.
#[rustfmt::skip]
pub const TEMPLATES: &[&str] = &[
    "the answer to the question is", "the object shown in the image is", "the number shown in the image is",
    "the object in this image is", "the single object in the image is", "the object in the image is", "the object in the picture is",
    "the object in the photo is", "the number in this image is", "the number in the image is",
    "the number in the picture is", "the digit in the image is", "the main object is", "the object is",
    "the number is", "the digit is", "the answer is", "object is", "number is", "the image shows", "this image shows",
    "the image is of", "this image is of", "the image is", "this is", "it is", "there is", "there are",
    "in the image", "in this image", "in the picture", "in this picture", "in the photo", "in this photo",
    "of the image", "a close up photo of", "a close up picture of", "a close up of", "a closeup of", "close up of",
    "closeup of", "a picture of", "a photo of", "a photograph of", "an image of", "the picture of", "the photo of",
    "the image of", "picture of", "photo of", "photograph of", "image of",
];

/// Phrases of an answer that declines, as words.
#[rustfmt::skip]
pub const REFUSALS: &[&str] = &[
    "sorry", "apologize", "apologise", "as an ai", "as a language model", "i cannot", "i can not", "i can't",
    "i could not", "i couldn't", "i am unable", "i'm unable", "unable to", "not able to", "i do not know",
    "i don't know", "cannot determine", "cannot identify", "can't identify", "cannot tell", "can't tell",
    "cannot see", "can't see", "cannot answer", "impossible to tell", "impossible to say", "no image", "i do not see",
    "i don't see", "cannot be determined", "not possible to",
];

/// The [`REFUSALS`] that may also be a correction.
pub const APOLOGIES: &[&str] = &["sorry", "apologize", "apologise"];

/// Words before the number of an option.
pub const OPTIONS: &[&str] = &["option", "choice", "class", "label", "answer", "number", "no", "index", "id"];

/// Nouns that only name a category; used for names that are not in the lexicon.
#[rustfmt::skip]
pub const CATEGORIES: &[&str] = &[
    "flower", "flowers", "plant", "plants", "bird", "birds", "fish", "animal", "animals", "dog", "dogs", "insect", "insects",
    "aircraft", "airplane", "airplanes", "plane", "planes", "car", "cars", "vehicle", "vehicles", "dish", "fruit", "vegetable",
    "area", "areas", "zone", "region", "land", "landscape", "field", "fields", "scene", "building", "buildings", "texture",
    "pattern", "sign", "symbol", "character", "mushroom", "disease", "variety",
];

/// Phrases said instead of an answer; they only count if no label is named.
#[rustfmt::skip]
pub const WEAK_REFUSALS: &[&str] = &[
    "can't make out", "cannot make out", "can not make out", "can't recognize", "cannot recognize", "can't recognise",
    "cannot recognise", "can't determine", "can't say", "cannot say", "hard to tell", "hard to say", "difficult to tell",
    "difficult to say", "too blurry to", "too small to tell", "not sure what", "no idea what",
];

/// Whether `word` has no content of its own.
pub fn is_function_word(word: &str) -> bool {
    FUNCTION_WORDS.contains(&word) || is_locative(word) || is_negator(word) || ALTERNATIVES.contains(&word)
}

/// Whether `word` starts a phrase of place.
pub fn is_locative(word: &str) -> bool {
    LOCATIVE.contains(&word)
}

/// Whether `word` ends a phrase of place.
pub fn ends_phrase(word: &str) -> bool {
    PHRASE_END.contains(&word)
}

/// Whether `word` may reverse the answer's meaning.
pub fn is_negator(word: &str) -> bool {
    NEGATORS.contains(&word)
}

/// Whether `word` only denies the noun after it (`without a tail`).
pub fn is_absence(word: &str) -> bool {
    ["no", "without", "unlike", "except", "nothing", "none"].contains(&word)
}

/// Whether a denial ends before `word`: a new sentence starts, or the verb of a denied noun.
pub fn ends_denial(word: &str, is_of_noun: bool) -> bool {
    ["it's", "that's", "this", "there's", "it", "because", "since", "so", "therefore", "thus"].contains(&word)
        || is_of_noun && ["is", "are", "was", "were", "shows", "has", "which", "who"].contains(&word)
}

/// Whether `word` expresses uncertainty.
pub fn is_hedge(word: &str) -> bool {
    HEDGES.contains(&word)
}

/// Whether `word` names a confidence score.
pub fn is_score(word: &str) -> bool {
    ["confidence", "probability", "certainty", "likelihood", "prob"].contains(&word)
}

/// Whether `word` offers an alternative.
pub fn is_alternative(word: &str) -> bool {
    ALTERNATIVES.contains(&word)
}

/// Whether the adjective `word` does not change what a thing is.
pub fn is_harmless_adjective(word: &str) -> bool {
    HARMLESS_ADJECTIVES.contains(&word)
}

/// Whether `word`, directly after a noun, makes that noun a modifier (`bird cage`).
pub fn takes_over_as_head(word: &str) -> bool {
    let looks_like_participle = (word.ends_with("ing") || word.ends_with("ed"))
        && word.chars().count() >= 5
        && !NOUNS_IN_ING_OR_ED.contains(&word);
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit()) || NUMBER_WORDS.contains(&word);
    let is_other_part = VERBS.contains(&word) || HARMLESS_TAILS.contains(&word) || is_number;
    !(is_function_word(word) || looks_like_participle || is_other_part)
}

/// Whether the one-word label `word` only describes a label that follows it (`orange butterfly`).
pub fn is_attributive(word: &str) -> bool {
    ATTRIBUTIVE.contains(&word)
}

/// Whether `word` is a helping verb between these neighbours, even if it is a label.
pub fn is_helping_verb(previous: Option<&str>, word: &str, next: Option<&str>) -> bool {
    if !MODALS.contains(&word) {
        return false;
    }
    let after_pronoun = previous.is_some_and(|previous| PRONOUNS.contains(&previous) && previous != "one");
    let is_noun = match (previous, next) {
        (_, None) => true,
        (None, Some(next)) => is_locative(next) || ends_phrase(next) || next == "of",
        (Some(previous), Some(next)) => {
            DETERMINERS.contains(&previous) && (is_locative(next) || ends_phrase(next) || next == "of")
        }
    };
    after_pronoun && next.is_some() || !is_noun
}

/// Whether `one` is a pronoun here, not the number.
pub fn is_pronoun_one(previous: Option<&str>, next: Option<&str>) -> bool {
    next == Some("of")
        || previous.is_some_and(|previous| {
            ["this", "that", "which", "any", "each", "no", "another", "every", "only", "last"].contains(&previous)
        })
}

#[cfg(test)]
mod tests;
