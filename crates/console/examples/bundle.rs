//! Makes one script of a module on standard input and all modules of the page that it imports:
//! `cargo run -p wayfare-console --example bundle < report.js`. With the argument `--style`, the style sheet.

use std::io::{self, Read as _, Write as _};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::args().any(|argument| argument == "--style") {
        return Ok(io::stdout().write_all(wayfare_console::style_sheet().as_bytes())?);
    }
    let mut source = String::new();
    io::stdin().read_to_string(&mut source)?;
    let script = wayfare_console::bundle("report.js", &source)?;
    Ok(io::stdout().write_all(script.as_bytes())?)
}
