//! One journey as text, for a terminal.

mod bars;
mod events;
mod header;
mod ledger;

use crate::journey::TracedJourney;
use crate::page::Page;

const MIN_WIDTH: usize = 40;
const MAX_WIDTH: usize = 400;

/// Shows one journey: what it was, both of its spans on one axis of time, its ledger, and its events with their
/// offsets from its start.
///
/// No line is longer than `width` characters, which is taken as 40 at least and 400 at most; what does not
/// fit is cut with an ellipsis. With `color`, ANSI escapes are added. Texts of the file cannot smuggle in
/// escapes of their own. Long lists of sequences and events are shortened in the middle, with the number of
/// those left out.
#[must_use]
pub fn waterfall(journey: &TracedJourney, width: usize, color: bool) -> String {
    let mut page = Page::new(width.clamp(MIN_WIDTH, MAX_WIDTH), color);
    header::write(journey, &mut page);
    page.blank();
    bars::write(journey, &mut page);
    page.blank();
    if ledger::write(journey, &mut page) {
        page.blank();
    }
    events::write(journey, &mut page);
    page.into_text()
}
