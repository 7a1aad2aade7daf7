//! Chat templates of a client's, and what they are given: the first line is JSON with `messages`, `kwargs` and `tools`,
//! the rest is the template. Rendering ends within its budget, one way or the other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use wayfare_text::{ChatTemplate, RenderOptions, SpecialTokens};

fuzz_target!(|text: &str| {
    let Some((given, source)) = text.split_once('\n') else { return };
    let Ok(given) = serde_json::from_str::<Value>(given) else { return };
    let Ok(template) = ChatTemplate::new(source.to_owned(), SpecialTokens::default()) else { return };
    let list = |name: &str| given.get(name).filter(|value| value.is_array()).cloned();
    let options = RenderOptions {
        add_generation_prompt: given.get("more").is_none(),
        tools: list("tools"),
        documents: list("documents"),
        continue_final_message: given.get("more").is_some(),
        kwargs: given.get("kwargs").and_then(Value::as_object).cloned().unwrap_or_default(),
    };
    let _ = template.render(&list("messages").unwrap_or_default(), &options);
});
