use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: String,
}

/// Status and text of a plain GET over a fresh connection.
pub(crate) async fn get(url: &str) -> Result<(u16, String)> {
    let answer = get_as(url, None).await?;
    Ok((answer.status, answer.body))
}

/// As [`get`], with an `Accept` header.
pub(crate) async fn get_as(url: &str, accept: Option<&str>) -> Result<Answer> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::get(url);
    if let Some(accept) = accept {
        request = request.header(ACCEPT, accept);
    }
    let answer = client.request(request.body(Empty::new())?).await?;
    let status = answer.status().as_u16();
    let content_type = answer.headers().get(CONTENT_TYPE).map(|value| value.to_str().map(str::to_owned));
    let content_type = content_type.transpose()?.unwrap_or_default();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(Answer { status, content_type, body: String::from_utf8_lossy(&body).into_owned() })
}
