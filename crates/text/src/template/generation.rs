//! The `generation` block that `transformers` adds to Jinja.
//!
//! It marks the assistant's text for training and prints its content. The template engine has no tags of one's
//! own, so the tags become those of a condition that always holds; whitespace control stays as it is.

/// The template with each `{% generation %}` and `{% endgeneration %}` replaced.
pub(super) fn without_tags(source: String) -> String {
    if !source.contains("generation") {
        return source;
    }
    let mut result = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        result.push_str(before);
        match replaced(tag) {
            Some((replacement, after)) => {
                result.push_str(&replacement);
                rest = after;
            }
            None => rest = tag,
        }
    }
    result.push_str(rest);
    result
}

/// For the text behind a `{%`: what to put for it and what follows, if it is one of the tags.
fn replaced(tag: &str) -> Option<(String, &str)> {
    let (open, body) = whitespace_control(tag);
    let body = body.trim_start();
    let (keyword, body) = if let Some(body) = body.strip_prefix("endgeneration") {
        ("endif", body)
    } else {
        ("if true", body.strip_prefix("generation")?)
    };
    let (close, body) = whitespace_control(body.trim_start());
    Some((format!("{open} {keyword} {close}%}}"), body.strip_prefix("%}")?))
}

fn whitespace_control(text: &str) -> (&str, &str) {
    text.split_at(usize::from(text.starts_with(['-', '+'])))
}
