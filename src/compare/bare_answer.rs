//! Answers that differ only in their form.

/// Returns `answer` in lower case without outer punctuation, opening phrase and article, cut to 80 characters. It only
/// groups equal answers for counting; no verdict depends on it.
pub fn bare_answer(answer: &str) -> String {
    let printable: String = answer.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let lower = printable.to_lowercase();
    let words = lower.split_whitespace().collect::<Vec<_>>().join(" ");
    let bare =
        words.trim_matches(|letter: char| letter.is_whitespace() || matches!(letter, '.' | ',' | '"' | '!' | ':'));
    let phrases = ["the object in the image is ", "the object is ", "the number in the image is ", "the number is "];
    let bare = phrases.iter().find_map(|phrase| bare.strip_prefix(phrase)).unwrap_or(bare);
    let articles = ["a(n) ", "a ", "an ", "the "];
    let without_article = articles.iter().find_map(|article| bare.strip_prefix(article)).unwrap_or(bare);
    without_article.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
