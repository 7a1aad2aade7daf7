//! The results for a reader.

use super::outcome::{Comparison, Row, Table};
use super::{Participant, Results};
use crate::bench::results::{head, row};
use crate::bench::statistics::Spread;

/// What one must know to read the tables.
const METHOD: &str = "\
One server runs at a time, with all cores; the driver, one thread, takes its share of the same cores, which the tables \
say. wayfare and llama.cpp are started for each run; vLLM is kept, and stopped (SIGSTOP) while others run. Before each \
run a few requests of the same kind with other prompts warm the server up. Prompts are token ids drawn at random, the \
same for all servers in a round and others in every round, and nothing of them can be in a prefix cache unless the load \
says so. Answers have exactly the length asked for (`ignore_eos`, temperature 0); tokens of prompts and answers are \
those of the servers' own usage, and a run with another number fails. Every request is streamed.

TTFT is the time from a request to its first event; TPOT the time from an answer's first event to its last, by its \
tokens after the first, one value for each answer; ITL the time between two events of an answer. Where several tokens \
leave in one event, ITL looks longer and TPOT does not; how many do is said, too. p99 of a run with fewer than a hundred \
values is its highest.

The weights are not quite alike: wayfare and llama.cpp read the same Q4_1 file, and each decides in what form it \
computes with it; vLLM has no such format and gets the values of that file dequantised and rounded to bf16. llama.cpp \
keeps keys and values in f16, vLLM in bf16. wayfare's journey tracing is off, as it is by default.
";

pub(super) fn page(results: &Results) -> String {
    let mut page = format!(
        "# Serving, side by side\n\n`cargo xtask bench serving`: the same load on wayfare and on other servers of the \
         default model, interleaved.\n\n{}{}* rounds: {}, of which the medians; ± is half of the range\n\n{METHOD}\n",
        results.machine.markdown(),
        results.hardware.markdown(),
        results.rounds,
    );
    page += "## Servers\n\nMemory is the most that was resident over all loads, files mapped included, summed over the processes of a \
             server, for each of which pages that they share count.\n\n";
    page += &head(&["server", "from start to first token s", "starts", "peak resident MiB"]);
    for participant in &results.participants {
        let Participant { contender, first_token_seconds, peak_resident_bytes, .. } = participant;
        page += &row([
            contender.title().to_owned(),
            format!("{:.2}", participant.first_token().median),
            first_token_seconds.len().to_string(),
            format!("{:.0}", *peak_resident_bytes as f64 / f64::from(1 << 20)),
        ]);
    }
    page += "\n";
    for Participant { contender, version, weights, command, .. } in &results.participants {
        page += &format!("* {}: {version}; {weights}\n  `{command}`\n", contender.title());
    }
    page += &comparisons(&results.tables);
    for table in &results.tables {
        page += &format!("\n## {:?}\n\n{}.\n\n", table.name, table.load.describe());
        page += &runs(&table.rows);
    }
    page
}

/// All comparisons in one table; nothing when there are no peers.
fn comparisons(tables: &[Table]) -> String {
    let against = |table: &Table| {
        let of = |comparison: &Option<Comparison>, which: &str| {
            comparison.as_ref().map(|comparison| comparison_row(table, comparison, which))
        };
        [of(&table.against_peers, "peers as they come"), of(&table.against_uncached, "peers without caching")]
    };
    let rows: String = tables.iter().flat_map(against).flatten().collect();
    if rows.is_empty() {
        return rows;
    }
    let names = ["load", "against", "output tokens/s", "mean TTFT", "median TPOT"];
    format!(
        "\n## wayfare against the better peer\n\nHow many times better than the best of the peers, which may be another for \
         each figure and in each round: above 1 wayfare is ahead. In brackets the lowest and the highest of the \
         rounds.\n\n{}{rows}",
        head(&names)
    )
}

fn comparison_row(table: &Table, comparison: &Comparison, which: &str) -> String {
    let times = |spread: &Spread| format!("{:.2} ({:.2}–{:.2})", spread.median, spread.min, spread.max);
    let peers: Vec<&str> = comparison.peers.iter().map(|peer| peer.title()).collect();
    row([
        format!("{:?}", table.name),
        format!("{which}: {}", peers.join("; ")),
        times(&comparison.output_tokens_per_second),
        times(&comparison.ttft_ms_mean),
        times(&comparison.tpot_ms_p50),
    ])
}

fn runs(rows: &[Row]) -> String {
    let mut table = head(&[
        "server",
        "output tokens/s",
        "total tokens/s",
        "requests/s",
        "TTFT mean ms",
        "p50",
        "p99",
        "TPOT p50 ms",
        "p99",
        "ITL p50 ms",
        "p99",
        "prompt cached",
        "tokens per event",
        "driver's CPU",
    ]);
    for one in rows {
        let of = |spread: &Spread, digits: usize| format!("{:.digits$}", spread.median);
        table += &row([
            one.contender.title().to_owned(),
            format!(
                "{:.1} ± {:.1} %",
                one.output_tokens_per_second.median,
                100.0 * one.output_tokens_per_second.relative()
            ),
            of(&one.total_tokens_per_second, 1),
            of(&one.requests_per_second, 2),
            of(&one.ttft_ms_mean, 1),
            of(&one.ttft_ms_p50, 1),
            of(&one.ttft_ms_p99, 1),
            of(&one.tpot_ms_p50, 2),
            of(&one.tpot_ms_p99, 2),
            of(&one.itl_ms_p50, 2),
            of(&one.itl_ms_p99, 2),
            format!("{:.1} %", 100.0 * one.cached_share.median),
            of(&one.tokens_per_event, 2),
            format!("{:.2} %", 100.0 * one.driver_share.median),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::contenders::Contender;
    use super::super::loads::LoadName;
    use super::super::outcome::tests::report;
    use super::*;

    fn table(name: LoadName, contenders: &[Contender]) -> Table {
        let rows = contenders.iter().zip([5.0, 10.0, 20.0]);
        let rows = rows.map(|(contender, seconds)| {
            let runs = vec![report(seconds, 10.0 * seconds, seconds); 3];
            Row::of(*contender, runs, 2)
        });
        Table::of(name, name.load(), rows.collect())
    }

    #[test]
    fn every_server_has_a_row_with_its_figures() {
        let Table { rows, .. } = table(LoadName::Single, &[Contender::Wayfare, Contender::Vllm]);
        let page = runs(&rows);
        let expected = "| wayfare | 100.0 ± 0.0 % | 300.0 | 2.00 | 50.0 | 50.0 | 50.0 | 5.00 | 5.00 | 5.00 | 5.00 | \
                        25.0 % | 1.25 | 1.00 % |";
        assert_eq!(page.lines().nth(2), Some(expected), "{page}");
        let cells = |line: &str| line.matches('|').count();
        assert!(page.lines().all(|line| cells(line) == cells(expected)), "{page}");
        assert_eq!(page.lines().count(), 4);
    }

    #[test]
    fn a_load_is_compared_with_the_peers_that_took_it() {
        let three = [Contender::Wayfare, Contender::LlamaCpp, Contender::VllmUncached];
        let tables = [
            table(LoadName::Single, &three[..1]),
            table(LoadName::Sixteen, &three[..2]),
            table(LoadName::SharedPrefix, &three),
        ];
        let page = comparisons(&tables);
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| S")).collect();
        assert_eq!(
            rows,
            [
                "| Sixteen | peers as they come: llama.cpp | 2.00 (2.00–2.00) | 2.00 (2.00–2.00) | 2.00 (2.00–2.00) |",
                "| SharedPrefix | peers as they come: llama.cpp | 2.00 (2.00–2.00) | 2.00 (2.00–2.00) | 2.00 (2.00–2.00) |",
                "| SharedPrefix | peers without caching: vLLM, no prefix caching | 4.00 (4.00–4.00) | 4.00 (4.00–4.00) | \
                 4.00 (4.00–4.00) |",
            ],
            "{page}"
        );
        assert_eq!(comparisons(&tables[..1]), "");
    }
}
