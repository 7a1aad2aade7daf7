//! The crate from outside: on the default model's vocabulary, on a `tokenizer.json`, on model directories.

#[cfg(test)]
mod default_model;
#[cfg(test)]
mod directory;
#[cfg(test)]
mod gguf_file;
#[cfg(test)]
mod grammar;
#[cfg(test)]
mod stream;
#[cfg(test)]
mod tokenizer_json;
