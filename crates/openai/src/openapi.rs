//! The OpenAPI document, made of tables of the fields that requests and answers have.
//!
//! A field that `params` understands stands in [`requests`]; one that is accepted only where it changes nothing comes
//! from the table that the requests themselves are checked with. A unit test compares what `params` asks for with
//! these tables, and an integration test sends every documented field with good and bad values.

mod answers;
mod document;
mod requests;
mod schema;

pub(crate) use self::document::document;
pub(crate) use self::schema::Facts;
