//! Lines of styled text that fit a width.

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Blue,
    Cyan,
}

impl Style {
    /// Parameters of the ANSI escape "select graphic rendition" (ECMA-48, SGR).
    fn code(self) -> &'static str {
        match self {
            Style::Plain => "0",
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Red => "31",
            Style::Green => "32",
            Style::Yellow => "33",
            Style::Blue => "34",
            Style::Cyan => "36",
        }
    }
}

/// A piece of a line.
pub(crate) type Piece = (Style, String);

/// Text in the making.
pub(crate) struct Page {
    width: usize,
    color: bool,
    text: String,
}

impl Page {
    pub(crate) fn new(width: usize, color: bool) -> Self {
        Self { width, color, text: String::new() }
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn blank(&mut self) {
        self.text.push('\n');
    }

    /// Writes one line, cut to the width, without blanks at its end.
    pub(crate) fn line(&mut self, pieces: &[Piece]) {
        let length: usize = pieces.iter().map(|(_, text)| text.chars().count()).sum();
        let is_cut = length > self.width;
        let mut room = if is_cut { self.width - 1 } else { self.width };
        let mut line = String::new();
        for (style, text) in pieces {
            let part: String = text.chars().take(room).collect();
            room -= part.chars().count();
            self.styled(*style, &part, &mut line);
        }
        if is_cut {
            line.push('…');
        }
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// Writes items one after the other, with so many blanks before each line, and as many lines as it takes.
    pub(crate) fn wrapped(&mut self, indent: usize, items: Vec<Vec<Piece>>) {
        const GAP: usize = 2;
        let margin = || (Style::Plain, " ".repeat(indent));
        let (mut line, mut length) = (vec![margin()], indent);
        for item in items {
            let item_length: usize = item.iter().map(|(_, text)| text.chars().count()).sum();
            if length > indent && length + GAP + item_length > self.width {
                self.line(&line);
                (line, length) = (vec![margin()], indent);
            }
            if length > indent {
                line.push((Style::Plain, " ".repeat(GAP)));
                length += GAP;
            }
            line.extend(item);
            length += item_length;
        }
        if length > indent {
            self.line(&line);
        }
    }

    fn styled(&self, style: Style, text: &str, line: &mut String) {
        if text.is_empty() {
            return;
        }
        if self.color && style != Style::Plain {
            line.push_str(&format!("\x1b[{}m{text}\x1b[0m", style.code()));
        } else {
            line.push_str(text);
        }
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

/// A text of the file, without characters that a terminal obeys or that hide or reorder others.
pub(crate) fn harmless(text: &str) -> String {
    let is_harmful = |character: char| {
        character.is_control()
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().map(|character| if is_harmful(character) { '\u{fffd}' } else { character }).collect()
}

/// A duration in the unit that suits it.
pub(crate) fn duration(ns: u64) -> String {
    let milliseconds = ns as f64 / 1e6;
    match ns {
        0..10_000_000 => format!("{milliseconds:.2} ms"),
        10_000_000..1_000_000_000 => format!("{milliseconds:.1} ms"),
        _ => format!("{:.2} s", milliseconds / 1e3),
    }
}

/// "1 token", "2 tokens".
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
