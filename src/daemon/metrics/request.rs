//! What a scrape asks and what it is answered: HTTP/1.1 (RFC 9112), as little of it as there has to
//! be. `GET` and `HEAD` of `/metrics`, one request a connection.

use httparse::Status;

/// More than any scraper sends.
const REQUEST_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;

/// The first bytes of a connection.
pub(super) struct Request {
    bytes: Box<[u8]>,
    filled: usize,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            bytes: vec![0; REQUEST_BYTES_MAX].into_boxed_slice(),
            filled: 0,
        }
    }
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ScrapeAsked {
    Metrics { with_body: bool },
    AnotherPath { with_body: bool },
    AnotherMethod,
    TooLong,
    NoHttp,
}

impl Request {
    /// Where more of it is to be read into; never empty before [`Request::is_whole`].
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    pub(super) fn read(&mut self, bytes: usize) {
        self.filled += bytes;
    }

    /// What is asked. None: that is not known yet.
    pub(super) fn is_whole(&self) -> Option<ScrapeAsked> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&self.bytes[..self.filled]) {
            Ok(Status::Partial) if self.filled < self.bytes.len() => None,
            Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                Some(ScrapeAsked::TooLong)
            }
            Err(_) => Some(ScrapeAsked::NoHttp),
            Ok(Status::Complete(_)) => {
                let path = request.path.unwrap_or_default();
                let path = path.split('?').next().unwrap_or_default();
                Some(match (request.method, path) {
                    (Some("GET"), "/metrics") => ScrapeAsked::Metrics { with_body: true },
                    (Some("HEAD"), "/metrics") => ScrapeAsked::Metrics { with_body: false },
                    (Some("GET"), _) => ScrapeAsked::AnotherPath { with_body: true },
                    (Some("HEAD"), _) => ScrapeAsked::AnotherPath { with_body: false },
                    _ => ScrapeAsked::AnotherMethod,
                })
            }
        }
    }
}

/// A whole answer.
pub(super) struct ScrapeAnswer(Vec<u8>);

impl ScrapeAnswer {
    /// `metrics` gives their text.
    pub(super) fn to(asked: ScrapeAsked, metrics: impl FnOnce() -> String) -> ScrapeAnswer {
        const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        const PLAIN: &str = "text/plain; charset=utf-8";
        let (status, content_type, body, with_body) = match asked {
            ScrapeAsked::Metrics { with_body } => ("200 OK", OPENMETRICS, metrics(), with_body),
            ScrapeAsked::AnotherPath { with_body } => {
                let body = "the metrics are at /metrics\n".to_owned();
                ("404 Not Found", PLAIN, body, with_body)
            }
            ScrapeAsked::AnotherMethod => {
                let body = "GET and HEAD are answered\n".to_owned();
                (
                    "405 Method Not Allowed\r\nAllow: GET, HEAD",
                    PLAIN,
                    body,
                    true,
                )
            }
            ScrapeAsked::TooLong => {
                let body = "the request is too long\n".to_owned();
                ("431 Request Header Fields Too Large", PLAIN, body, true)
            }
            ScrapeAsked::NoHttp => {
                let body = "this is no request of HTTP/1.1\n".to_owned();
                ("400 Bad Request", PLAIN, body, true)
            }
        };
        let mut answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        if with_body {
            answer.push_str(&body);
        }
        ScrapeAnswer(answer.into_bytes())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &[u8]) -> Option<ScrapeAsked> {
        let mut request = Request::default();
        let most = text.len().min(REQUEST_BYTES_MAX);
        request.room()[..most].copy_from_slice(&text[..most]);
        request.read(most);
        request.is_whole()
    }

    #[test]
    fn requests_and_what_is_none() {
        let get = b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(asked(get), Some(ScrapeAsked::Metrics { with_body: true }));
        for cut in 0..get.len() {
            assert_eq!(asked(&get[..cut]), None, "{cut}");
        }
        let head = b"HEAD /metrics HTTP/1.0\r\n\r\n";
        assert_eq!(asked(head), Some(ScrapeAsked::Metrics { with_body: false }));
        for (text, expected) in [
            (
                &b"GET / HTTP/1.1\r\n\r\n"[..],
                ScrapeAsked::AnotherPath { with_body: true },
            ),
            (
                b"HEAD / HTTP/1.1\r\n\r\n",
                ScrapeAsked::AnotherPath { with_body: false },
            ),
            (
                b"GET /metrics/../x HTTP/1.1\r\n\r\n",
                ScrapeAsked::AnotherPath { with_body: true },
            ),
            (
                b"POST /metrics HTTP/1.1\r\n\r\n",
                ScrapeAsked::AnotherMethod,
            ),
            (b"\x16\x03\x01\x02\x00\x01\x00", ScrapeAsked::NoHttp),
            (&[b'a'; REQUEST_BYTES_MAX], ScrapeAsked::TooLong),
            (
                &b"GET /metrics HTTP/1.1\r\n"
                    .iter()
                    .copied()
                    .chain(b"A: b\r\n".repeat(65))
                    .collect::<Vec<u8>>(),
                ScrapeAsked::TooLong,
            ),
        ] {
            assert_eq!(asked(text), Some(expected));
        }
    }

    #[test]
    fn head_is_answered_as_get_without_the_body() {
        let answer = |asked| {
            let answer = ScrapeAnswer::to(asked, || "12345".to_owned());
            String::from_utf8(answer.bytes().to_vec()).unwrap()
        };
        let [get, head] = [true, false].map(|with_body| answer(ScrapeAsked::Metrics { with_body }));
        assert!(get.contains("Content-Length: 5\r\n") && get.ends_with("\r\n\r\n12345"));
        assert_eq!(format!("{head}12345"), get);
        let [get, head] =
            [true, false].map(|with_body| answer(ScrapeAsked::AnotherPath { with_body }));
        assert!(get.starts_with("HTTP/1.1 404 ") && head.ends_with("\r\n\r\n"));
        assert_eq!(format!("{head}the metrics are at /metrics\n"), get);
    }
}
