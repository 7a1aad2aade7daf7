//! The page and its files.

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;
use wayfare_console::{AboutServer, about_routes, page_routes};

use crate::rig::ask;

async fn get(router: Router, path: &str, tag: Option<&str>) -> (StatusCode, HeaderMap, String) {
    let mut request = Request::get(path);
    if let Some(tag) = tag {
        request = request.header(header::IF_NONE_MATCH, tag);
    }
    let (head, body) = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
}

/// The addresses of other files in the page.
fn linked(page: &str) -> Vec<&str> {
    let quoted =
        |attribute: &'static str| page.split(attribute).skip(1).filter_map(|rest| rest.split('"').next());
    quoted("href=\"").chain(quoted("src=\"")).filter(|address| !address.starts_with('#')).collect()
}

#[tokio::test]
async fn the_page_and_all_it_links_to_are_served_with_a_strict_policy() {
    let (status, _, page) = get(page_routes(), "/journeys", None).await;
    assert_eq!(status, StatusCode::OK);
    let linked = linked(&page);
    assert!(linked.len() > 5, "{linked:?}");
    for path in linked.iter().map(|address| format!("/{address}")).chain(["/journeys".to_owned()]) {
        let (status, headers, body) = get(page_routes(), &path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert!(!body.is_empty(), "{path}");
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        let kind = headers[header::CONTENT_TYPE].to_str().unwrap();
        let expected = match path.rsplit_once('.') {
            Some((_, "js")) => "text/javascript",
            Some((_, "css")) => "text/css",
            Some((_, "svg")) => "image/svg+xml",
            _ => "text/html",
        };
        assert!(kind.starts_with(expected), "{path}: {kind}");
    }
}

#[tokio::test]
async fn a_file_that_is_known_is_not_sent_again() {
    for path in ["/journeys", "/journeys/assets/app.js"] {
        let (_, headers, body) = get(page_routes(), path, None).await;
        let tag = headers[header::ETAG].to_str().unwrap().to_owned();
        assert_eq!(headers[header::CACHE_CONTROL], "no-cache");
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let (status, headers, nothing) = get(page_routes(), path, Some(&known)).await;
            assert_eq!((status, nothing.as_str()), (StatusCode::NOT_MODIFIED, ""), "{known}");
            assert_eq!(headers[header::ETAG], tag);
        }
        let (status, _, again) = get(page_routes(), path, Some("\"other\"")).await;
        assert_eq!((status, again), (StatusCode::OK, body));
    }
    let tag_of = async |path| get(page_routes(), path, None).await.1[header::ETAG].clone();
    assert_ne!(tag_of("/journeys").await, tag_of("/journeys/assets/app.js").await);
}

#[tokio::test]
async fn other_paths_are_not_files() {
    for path in
        ["/journeys/assets/none.js", "/journeys/assets/../../Cargo.toml", "/journeys/assets/README.md"]
    {
        let (status, _, body) = get(page_routes(), path, None).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}: {body}");
    }
    let (status, headers, _) = get(page_routes(), "/journeys/", None).await;
    assert_eq!(status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(headers[header::LOCATION], "../journeys");
}

#[tokio::test]
async fn the_server_says_what_it_is() {
    let about = AboutServer {
        version: "1.2.3".to_owned(),
        model: "tiny".to_owned(),
        engine: "sim".to_owned(),
        max_num_seqs: 8,
        max_num_batched_tokens: 512,
        block_size: 16,
        num_kv_blocks: 100,
        live_view: true,
        trace_url_template: Some("http://jaeger/trace/{trace_id}".to_owned()),
    };
    let request = Request::get("/journeys/about").body(Body::empty()).unwrap();
    let (status, body) = ask(about_routes(about), request).await;
    assert_eq!(status, 200);
    assert_eq!(
        (&body["model"], &body["trace_url_template"]),
        (&"tiny".into(), &"http://jaeger/trace/{trace_id}".into())
    );
}
