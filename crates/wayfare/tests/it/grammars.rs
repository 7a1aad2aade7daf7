//! Answers of a given form, from the default model and from the simulated engine.

use serde_json::{Value, json};

use crate::client::{Response, post};
use crate::rig::{CHAT, COMPLETIONS, request};
use crate::server::ServerProcess;

fn servers() -> [ServerProcess; 2] {
    let sizes = ["--max-model-len", "512", "--num-kv-blocks", "80", "--max-num-seqs", "4"];
    [
        ServerProcess::start(&sizes),
        ServerProcess::simulated(&[&sizes[..], &["--sim-profile", "instant"]].concat(), &[]),
    ]
}

fn ask(server: &ServerProcess, path: &str, more: Value) -> Response {
    let response = post(&server.address, path, &[], &request(path, more).to_string());
    assert_eq!(response.status, 200, "{}", response.body);
    response
}

fn finish_reason(response: &Response) -> String {
    response.json()["choices"][0]["finish_reason"].as_str().unwrap().to_owned()
}

#[test]
fn an_answer_has_the_form_that_was_asked_for() {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": false,
    });
    for server in servers() {
        for path in [CHAT, COMPLETIONS] {
            let wrapped = json!({"type": "json_schema", "json_schema": {"name": "person", "schema": schema}});
            for more in [
                json!({"response_format": wrapped}),
                json!({"guided_json": schema}),
                json!({"guided_json": schema.to_string()}),
                json!({"structured_outputs": {"json": schema}}),
            ] {
                let mut more = more;
                more["max_tokens"] = json!(400);
                more["temperature"] = json!(0);
                let whole = ask(&server, path, more.clone());
                assert_eq!(finish_reason(&whole), "stop", "{}", whole.body);
                let value: Value = serde_json::from_str(&whole.text()).unwrap();
                assert!(value["name"].is_string() && value["age"].is_u64(), "{value}");
                assert!(value["tags"].as_array().unwrap().iter().all(|tag| tag == "a" || tag == "b"));
                assert_eq!(value.as_object().unwrap().len(), 3);
            }
            let object =
                ask(&server, path, json!({"response_format": {"type": "json_object"}, "max_tokens": 100}));
            if finish_reason(&object) == "stop" {
                assert!(serde_json::from_str::<Value>(&object.text()).unwrap().is_object());
            }
            let date = ask(&server, path, json!({"guided_regex": "[0-9]{4}-[0-9]{2}", "max_tokens": 40}));
            let text = date.text();
            assert_eq!(
                (text.len(), text.find('-'), &*finish_reason(&date)),
                (7, Some(4), "stop"),
                "{text:?}"
            );
            let choice = json!({"guided_choice": ["maybe", "certainly not"], "max_tokens": 40});
            let text = ask(&server, path, choice).text();
            assert!(["maybe", "certainly not"].contains(&&*text), "{text:?}");
            let lark = json!({"guided_grammar": "start: \"yes\" | \"no\" \"!\"", "max_tokens": 40});
            let text = ask(&server, path, lark).text();
            assert!(["yes", "no!"].contains(&&*text), "{text:?}");
        }
    }
}

#[test]
fn a_form_is_kept_when_streamed_and_cut_only_by_the_length() {
    for server in servers() {
        let more = json!({"guided_regex": "(ab){40}", "max_tokens": 400, "seed": 5});
        let whole = ask(&server, CHAT, more.clone());
        assert_eq!((whole.text(), finish_reason(&whole)), ("ab".repeat(40), "stop".to_owned()));
        let mut streamed = more.clone();
        streamed["stream"] = json!(true);
        assert_eq!(ask(&server, CHAT, streamed).text(), "ab".repeat(40));
        let mut cut = more;
        cut["max_tokens"] = json!(3);
        let cut = ask(&server, CHAT, cut);
        assert!("ab".repeat(40).starts_with(&cut.text()) && finish_reason(&cut) == "length");
    }
}

#[test]
fn several_answers_each_follow_their_own_copy() {
    for server in servers() {
        let more = json!({"guided_regex": "[a-z]{5}", "n": 4, "max_tokens": 20, "temperature": 1.5});
        let texts = crate::choices::texts(&ask(&server, CHAT, more));
        assert_eq!(texts.len(), 4);
        assert!(texts.iter().all(|text| text.len() == 5 && text.bytes().all(|b| b.is_ascii_lowercase())));
    }
}

#[test]
fn a_form_that_leaves_only_bad_words_is_kept_to() {
    for server in servers() {
        for more in [
            json!({"guided_choice": ["yes"], "bad_words": ["yes", "y", "ye", "e", "es", "s"]}),
            json!({"guided_choice": ["yes"], "min_tokens": 20, "max_tokens": 30}),
            json!({"guided_choice": ["yes"], "bad_words": ["yes"], "min_tokens": 20, "max_tokens": 30, "temperature": 1.5}),
        ] {
            let answer = ask(&server, COMPLETIONS, more.clone());
            assert_eq!((&*answer.text(), &*finish_reason(&answer)), ("yes", "stop"), "{more}");
        }
        // Where something is left, it holds.
        let other =
            json!({"guided_choice": ["yes", "no"], "bad_words": ["yes", "y", "ye"], "max_tokens": 20});
        assert_eq!(ask(&server, COMPLETIONS, other).text(), "no");
    }
}
