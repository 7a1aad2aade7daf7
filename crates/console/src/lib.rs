//! Looking at journeys in the running server, and steering what is recorded.
//!
//! * [`RecentJourneys`] keeps the last finished journeys in memory; [`journey_routes`] shows them as JSON:
//!   `GET /journeys/recent` and `GET /journeys/{id}`.
//! * [`page_routes`] is the page that shows them, at `/journeys`; [`bundle`] makes parts of it into a script for
//!   a page without a server.
//! * [`LiveView`] shows the requests in flight: `GET /journeys/live`, `/journeys/gauges` and `/journeys/events`.
//! * [`admin_routes`] shows and changes the sampling policy: `GET` and `PUT /admin/journey`. They belong on a
//!   listener that clients cannot reach.
//!
//! What the answers look like is described in `docs/journeys.md` and `docs/live-view.md`. They hold no text of prompts or answers,
//! because journeys do not.
#![forbid(unsafe_code)]

mod admin;
mod error;
mod filter;
mod json;
mod live;
mod page;
mod restored;
mod routes;
mod store;
mod stored;
mod summary;
mod web;

pub use admin::admin_routes;
pub use live::{LiveServer, LiveView};
pub use page::{AboutServer, about_routes, page_routes};
pub use routes::journey_routes;
pub use store::{ReadBack, RecentJourneys, SerialRange, StoreLimits, StoreReader, StoreUse};
pub use stored::StoredJourney;
pub use web::{BundleError, bundle, style_sheet};
