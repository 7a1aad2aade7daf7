//! What every target does with a file: reads it, surveys it, explains it, and tells of each request.

use std::io::Cursor;

use wayfare_insight::{Explanation, Stories, Survey, TextStyle, TraceInput, explanation_text, write_csv};

pub fn read(bytes: Vec<u8>) {
    let mut survey = Survey::new(64);
    match TraceInput::new(Cursor::new(bytes)) {
        Ok(spans) => {
            for span in spans {
                match span {
                    Ok(span) => survey.add(&span),
                    Err(error) => survey.note_unreadable("input", &error),
                }
            }
        }
        Err(error) => survey.note_unreadable("input", &error),
    }
    let explanation = Explanation::of(&survey);
    let _ = explanation_text(&explanation, TextStyle { width: 80, color: true });
    let stories = Stories::of(&survey);
    for record in survey.records() {
        let _ = stories.tell(record);
    }
    write_csv(&survey, &mut Vec::new()).expect("memory takes everything");
}
