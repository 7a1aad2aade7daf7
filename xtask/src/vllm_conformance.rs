//! Holds the server against vLLM itself: the same answers, in both places that it can have, and journeys that keep their
//! rules whatever happens.

mod checks;
mod journeys;
mod site;

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::checks::{Answers, Asked};
use self::site::{Place, Site};
use crate::process::{cargo, run as run_command, target_directory};
use crate::vllm_real::{self, RealVllm};

/// Options of `cargo xtask vllm-conformance`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Only installs what is needed, and prints the command by which vLLM serves the model.
    #[arg(long)]
    set_up: bool,

    /// Only looks at one of the places: in front of vLLM, or in the seat of its own front.
    #[arg(long, value_enum)]
    only: Option<Place>,
}

/// Room for everything that is asked. vLLM's blocks have 128 tokens on a processor.
const ROOMY: &[&str] = &["--max-model-len", "1024", "--max-num-seqs", "8"];
/// Five blocks that can be used, for sequences that need two each.
const CROWDED: &[&str] = &["--max-model-len", "256", "--max-num-seqs", "8", "--num-gpu-blocks-override", "6"];

/// Installs what is needed, and compares.
///
/// # Errors
/// When something differs, or breaks a rule.
pub(crate) fn run(Options { set_up, only }: &Options) -> Result<()> {
    let vllm = vllm_real::ensure()?;
    if *set_up {
        println!("{:?}", vllm.serve());
        return Ok(());
    }
    run_command(&mut cargo(&["build", "--package", "wayfare"]))?;
    let wayfare = target_directory()?.join("debug").join("wayfare");
    let folder = target_directory()?.join("vllm-conformance");
    std::fs::create_dir_all(&folder)?;
    println!("vLLM's own server; its log and all others are in {}", folder.display());
    let expected = {
        let mut site = Site::start(Place::VllmItself, &vllm, &wayfare, &folder, ROOMY)?;
        let answers = checks::answers(&site)?;
        site.stop()?;
        answers
    };
    for place in
        [Place::InFront, Place::InTheSeat].into_iter().filter(|place| only.is_none_or(|only| only == *place))
    {
        println!("{}", place.name());
        let with_place = || format!("{}; logs are in {}", place.name(), folder.display());
        serves_the_same(place, &vllm, &wayfare, &folder, &expected).with_context(with_place)?;
        preempts(place, &vllm, &wayfare, &folder).with_context(with_place)?;
        loses_its_engine(place, &vllm, &wayfare, &folder).with_context(with_place)?;
    }
    println!("all is as it should be");
    Ok(())
}

/// Every kind of request, compared with vLLM's own answers where those are determined.
fn serves_the_same(
    place: Place,
    vllm: &RealVllm,
    wayfare: &Path,
    folder: &Path,
    expected: &Answers,
) -> Result<()> {
    let mut site = Site::start(place, vllm, wayfare, folder, ROOMY)?;
    let mut asked = Asked::default();
    let answers = checks::answers(&site)?;
    asked.add(checks::ANSWERS);
    expected.compare(&answers)?;
    println!("  {} answers are vLLM's own", answers.len());
    asked.add(checks::streams_say_what_whole_answers_say(&site)?);
    asked.add(checks::outputs_follow_a_schema(&site)?);
    println!("  streams and schemas");
    asked.add_aborted(checks::a_client_that_leaves_frees_its_place(&site)?);
    println!("  a client that leaves");
    checks::nothing_is_left(&site)?;
    site.stop()?;
    journeys::check(&site.journeys()?, &asked)?;
    println!("  {} journeys keep their rules", asked.all());
    Ok(())
}

/// More than the KV cache holds.
fn preempts(place: Place, vllm: &RealVllm, wayfare: &Path, folder: &Path) -> Result<()> {
    let mut site = Site::start(place, vllm, wayfare, folder, CROWDED)?;
    let mut asked = Asked::default();
    asked.add(checks::a_crowd_is_answered(&site)?);
    checks::nothing_is_left(&site)?;
    site.stop()?;
    let preemptions = journeys::check(&site.journeys()?, &asked)?;
    if preemptions == 0 {
        bail!("nothing was preempted, although the KV cache was too small");
    }
    println!("  {preemptions} preemptions in a small pool");
    Ok(())
}

/// The engine core is killed while it answers.
fn loses_its_engine(place: Place, vllm: &RealVllm, wayfare: &Path, folder: &Path) -> Result<()> {
    let mut site = Site::start(place, vllm, wayfare, folder, ROOMY)?;
    let requests = checks::a_lost_engine_is_an_error(&site)?;
    site.stop_whatever_it_says()?;
    let journeys = site.journeys()?;
    let check = |ending: &str| journeys::check(&journeys, &Asked::failed(requests, ending));
    match place {
        Place::InTheSeat => {
            // vLLM ends its front when it loses an engine. Which of the two the front hears of first is open.
            check("engine_dead").or_else(|_| check("shutdown"))?;
        }
        Place::InFront | Place::VllmItself => {
            check("engine_dead")?;
        }
    }
    println!("  an engine that is killed");
    Ok(())
}
