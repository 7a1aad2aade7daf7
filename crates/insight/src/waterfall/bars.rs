//! The spans as bars on one axis of time.

use std::collections::BTreeSet;

use crate::journey::TracedJourney;
use crate::page::{Page, Piece, Style, counted, duration};
use crate::phases::{Phase, Segment};

/// Columns for the names of the spans.
const NAME_WIDTH: usize = 14;
/// More sequences than these are left out.
const MAX_CORES: usize = 16;

struct Axis {
    start: u64,
    end: u64,
    columns: usize,
}

impl Axis {
    /// The first moment of a column; of the column after the last one, the end.
    fn time(&self, column: usize) -> u64 {
        let length = u128::from(self.end - self.start);
        let offset = length * column as u128 / self.columns as u128;
        self.start + u64::try_from(offset).unwrap_or(0)
    }
}

pub(super) fn write(journey: &TracedJourney, page: &mut Page) {
    let (start, end) = journey.bounds_unix_ns();
    let axis = Axis { start, end, columns: page.width() - NAME_WIDTH };
    write_scale(&axis, page);

    let mut seen = BTreeSet::new();
    if journey.request.is_some() {
        write_bar("llm_request", &journey.request_phases(), &axis, page, &mut seen);
    }
    for (index, core) in journey.cores.iter().take(MAX_CORES).enumerate() {
        let name = match core.sequence_index() {
            _ if journey.cores.len() == 1 => "llm_core".into(),
            Some(sequence) if sequence < 1000 => format!("llm_core {sequence}"),
            _ => format!("llm_core {index}"),
        };
        write_bar(&name, &core.phases(), &axis, page, &mut seen);
    }
    let left_out = journey.cores.len().saturating_sub(MAX_CORES) as u64;
    if left_out > 0 {
        page.line(&[(Style::Dim, format!("… and {}", counted(left_out, "more llm_core span")))]);
    }
    let legend = seen.into_iter().map(|phase| {
        let (glyph, style) = look(phase);
        vec![(style, glyph.to_string()), (Style::Dim, format!(" {}", phase.as_str()))]
    });
    page.wrapped(NAME_WIDTH, legend.collect());
}

/// The axis, with the time at its start, middle and end.
fn write_scale(axis: &Axis, page: &mut Page) {
    let at = |column| duration(axis.time(column) - axis.start);
    let middle = axis.columns / 2;
    let (middle_label, end_label) = (at(middle), at(axis.columns));
    let mut labels = vec![' '; axis.columns];
    let mut put = |column: usize, label: &str| {
        for (place, character) in labels.iter_mut().skip(column).zip(label.chars()) {
            *place = character;
        }
    };
    put(0, "0 ms");
    // Only where it does not touch the others.
    if middle + middle_label.len() + 1 < axis.columns - end_label.len().min(axis.columns) && middle > 5 {
        put(middle, &middle_label);
    }
    put(axis.columns.saturating_sub(end_label.len()), &end_label);
    let mut line: Vec<char> = vec!['─'; axis.columns];
    for (column, glyph) in [(0, '├'), (middle, '┼'), (axis.columns - 1, '┤')] {
        line[column] = glyph;
    }
    let margin = " ".repeat(NAME_WIDTH);
    page.line(&[(Style::Dim, format!("{margin}{}", String::from_iter(labels)))]);
    page.line(&[(Style::Dim, format!("{margin}{}", String::from_iter(line)))]);
}

fn write_bar(name: &str, segments: &[Segment], axis: &Axis, page: &mut Page, seen: &mut BTreeSet<Phase>) {
    let cells = cells(segments, axis);
    seen.extend(cells.iter().flatten());
    let mut pieces: Vec<Piece> = vec![(Style::Plain, format!("{name:<NAME_WIDTH$}"))];
    for run in cells.chunk_by(|one, other| one == other) {
        let (glyph, style) = run.first().copied().flatten().map_or((' ', Style::Plain), look);
        pieces.push((style, glyph.to_string().repeat(run.len())));
    }
    page.line(&pieces);
}

/// What each column shows: the phase that has most of it. A preemption shows however short it was, and so
/// does every known phase that would have no column at all, where another phase can spare one.
fn cells(segments: &[Segment], axis: &Axis) -> Vec<Option<Phase>> {
    let mut cells: Vec<Option<Phase>> = vec![None; axis.columns];
    // Segments are in order and joined, so each column looks only at those that reach into it.
    let mut first = 0;
    for (column, cell) in cells.iter_mut().enumerate() {
        let (from, to) = (axis.time(column), axis.time(column + 1));
        while segments.get(first).is_some_and(|segment| segment.end_unix_ns <= from) {
            first += 1;
        }
        let in_column = segments[first..].iter().take_while(|segment| segment.start_unix_ns < to);
        let share = |segment: &Segment| segment.end_unix_ns.min(to) - segment.start_unix_ns.max(from);
        let mut shares: Vec<(Phase, u64)> = Vec::new();
        for segment in in_column {
            match shares.iter_mut().find(|(phase, _)| *phase == segment.phase) {
                Some((_, total)) => *total += share(segment),
                None => shares.push((segment.phase, share(segment))),
            }
        }
        let is_preempted = shares.iter().any(|(phase, _)| *phase == Phase::Preempted);
        let largest = shares.iter().max_by_key(|(_, share)| *share).map(|(phase, _)| *phase);
        *cell = if is_preempted { Some(Phase::Preempted) } else { largest };
    }
    show_the_short(segments, axis, &mut cells);
    cells
}

/// Gives a known phase without any column the one it starts in, if the phase there keeps another.
fn show_the_short(segments: &[Segment], axis: &Axis, cells: &mut [Option<Phase>]) {
    let mut shown: BTreeSet<Phase> = cells.iter().flatten().copied().collect();
    for segment in segments {
        if segment.phase == Phase::Unknown || !shown.insert(segment.phase) {
            continue;
        }
        let column = (0..axis.columns).rev().find(|column| axis.time(*column) <= segment.start_unix_ns);
        let Some(column) = column else { continue };
        let owner = cells[column];
        let keeps_another = owner.is_none() || cells.iter().filter(|cell| **cell == owner).count() > 1;
        if keeps_another {
            cells[column] = Some(segment.phase);
        }
    }
}

fn look(phase: Phase) -> (char, Style) {
    match phase {
        Phase::Prepare => ('╌', Style::Dim),
        Phase::InEngine => ('━', Style::Plain),
        Phase::Deliver => ('»', Style::Blue),
        Phase::Queue => ('·', Style::Yellow),
        Phase::Prefill => ('▒', Style::Cyan),
        Phase::Decode => ('█', Style::Green),
        Phase::Preempted => ('╳', Style::Red),
        Phase::Thrashing => ('╬', Style::Red),
        Phase::Unknown => ('?', Style::Dim),
    }
}
