//! Models from the Hugging Face hub, through its cache (`HF_HOME`).

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use hf_hub::HFClientSync;
use hf_hub::progress::{DownloadEvent, FileProgress, ProgressEvent, ProgressHandler};
use indicatif::ProgressBar;
use parking_lot::Mutex;

use crate::progress::byte_bar;

/// What a model directory needs.
const MODEL_FILES: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "*.safetensors",
    "*.safetensors.index.json",
];

/// Downloads a model, or finds it in the cache, and returns the path of its directory or file.
///
/// # Errors
/// When the hub cannot be reached, does not have the model, or has it in a form that is not supported.
pub(crate) fn fetch(owner: &str, repository: &str, file: Option<&str>) -> Result<PathBuf> {
    let name = format!("{owner}/{repository}");
    let unreachable = || {
        format!(
            "{name} could not be fetched from the Hugging Face hub; without network, give the path of a \
             .gguf file or of a model directory instead"
        )
    };
    let client = HFClientSync::new().with_context(unreachable)?;
    let model = client.model(owner, repository);
    let bar = Bar::new(&name);
    if let Some(file) = file {
        return model.download_file().filename(file).progress(bar).send().with_context(unreachable);
    }
    let patterns = MODEL_FILES.map(str::to_owned).to_vec();
    let directory =
        model.snapshot_download().allow_patterns(patterns).progress(bar).send().with_context(unreachable)?;
    if !directory.join("config.json").exists() {
        bail!("{name} has no config.json; if it holds GGUF files, name one of them: {name}:FILE.gguf");
    }
    Ok(directory)
}

/// Shows the bytes of all files together.
struct Bar {
    bar: ProgressBar,
    files: Mutex<Vec<FileProgress>>,
}

impl Bar {
    fn new(name: &str) -> Self {
        Self { bar: byte_bar(name), files: Mutex::new(Vec::new()) }
    }

    fn update(&self, changed: &[FileProgress]) {
        let mut files = self.files.lock();
        for new in changed {
            match files.iter_mut().find(|known| known.filename == new.filename) {
                Some(known) => *known = new.clone(),
                None => files.push(new.clone()),
            }
        }
        self.bar.set_position(files.iter().map(|file| file.bytes_completed).sum());
    }
}

impl ProgressHandler for Bar {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else { return };
        match event {
            DownloadEvent::Start { total_bytes, .. } => self.bar.set_length(*total_bytes),
            DownloadEvent::Progress { files } => self.update(files),
            DownloadEvent::AggregateProgress { bytes_completed, .. } => {
                self.bar.set_position(*bytes_completed)
            }
            DownloadEvent::Complete => self.bar.finish_and_clear(),
        }
    }
}
