use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::form::{Form, GapRow};
use super::query::{OF_ROWS, Query};
use super::{HttpError, StreamsBody, answer};
use crate::streams::range::RangeReader;
use crate::streams::{AppendError, OutFrame, Streams};

/// Rows of one answer where the request sets no end.
const ROWS: u64 = 1_000;
/// Size of the pieces in which an answer goes out.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that wait for the client.
const PIECES: usize = 2;

impl Streams {
    /// Records and gaps of a stream. The answer goes out while it is read, so
    /// that its length costs no memory; if reading fails on the way, the
    /// connection is cut.
    pub(super) async fn rows_of(
        &self,
        stream: &str,
        method: &Method,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<Response<StreamsBody>, HttpError> {
        let form = Form::accepted(headers).ok_or(HttpError::Form)?;
        if form == Form::Page {
            self.readable(stream)?;
            return Ok(super::page::page());
        }
        let query = Query::parse(query, OF_ROWS)?;
        let mut reader = self.range(stream, query.range).await?;
        let held = reader.held();
        let mut response = if method == Method::HEAD {
            answer(
                StatusCode::OK,
                form.media_type(),
                Empty::new().map_err(|never| match never {}).boxed_unsync(),
            )
        } else {
            // Read before the answer begins, so that what fails at once has a status.
            let first = reader.next().await?;
            let whole = query.range.to.or(query.range.until_ms).is_some();
            let limit = query.limit.unwrap_or(if whole { u64::MAX } else { ROWS });
            let (pieces, received) = mpsc::channel(PIECES);
            let writer = Writer {
                form,
                gaps: query.gaps,
                left: limit,
                piece: BytesMut::new(),
                pieces,
            };
            tokio::spawn(writer.run(reader, first));
            let body = StreamBody::new(ReceiverStream::new(received).map(|p| p.map(Frame::data)));
            answer(StatusCode::OK, form.media_type(), body.boxed_unsync())
        };
        let own = [
            ("edge-epoch", self.epoch()),
            ("edge-first-seq", held.start),
            ("edge-next-seq", held.end),
        ];
        let headers = response.headers_mut();
        for (name, number) in own {
            headers.insert(name, HeaderValue::from(number));
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        Ok(response)
    }
}

/// Writes an answer's pieces; ends when the client is gone.
struct Writer {
    form: Form,
    gaps: bool,
    left: u64,
    piece: BytesMut,
    pieces: mpsc::Sender<Result<Bytes, AppendError>>,
}

/// Nothing more is to be written.
struct Ended;

impl Writer {
    async fn run(mut self, reader: RangeReader, first: Vec<OutFrame>) {
        // Whether the end was reached or the client left: there is nobody to tell.
        let _ = self.write(reader, first).await;
        let _ = self.flush().await;
    }

    async fn write(&mut self, mut reader: RangeReader, first: Vec<OutFrame>) -> Result<(), Ended> {
        if let (true, Some(released)) = (self.gaps, reader.released())
            && self.form != Form::Frames
        {
            self.form.gap(&mut self.piece, &GapRow::released(released));
        }
        let mut frames = first;
        while !frames.is_empty() {
            for frame in frames {
                self.frame(&reader, frame).await?;
            }
            frames = match reader.next().await {
                Ok(frames) => frames,
                Err(error) => {
                    tracing::warn!(%error, "an answer with records was cut off");
                    self.flush().await?;
                    let _ = self.pieces.send(Err(error)).await;
                    return Err(Ended);
                }
            };
        }
        Ok(())
    }

    async fn frame(&mut self, reader: &RangeReader, frame: OutFrame) -> Result<(), Ended> {
        if self.left == 0 {
            return Err(Ended);
        }
        if self.form == Form::Frames {
            let (bytes, is_gap) = (frame.bytes.clone(), GapRow::of(&frame).is_some());
            let count = reader.rows(frame).count() as u64;
            if is_gap || count > 0 {
                self.piece.extend_from_slice(&bytes);
                self.left = self.left.saturating_sub(count);
                self.flush_if_large().await?;
            }
            return Ok(());
        }
        if let Some(gap) = GapRow::of(&frame) {
            if self.gaps {
                self.form.gap(&mut self.piece, &gap);
            }
            return Ok(());
        }
        for row in reader.rows(frame) {
            if self.left == 0 {
                return Err(Ended);
            }
            self.form.row(&mut self.piece, &row);
            self.left -= 1;
            self.flush_if_large().await?;
        }
        Ok(())
    }

    async fn flush_if_large(&mut self) -> Result<(), Ended> {
        if self.piece.len() < PIECE_BYTES {
            return Ok(());
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        let piece = self.piece.split().freeze();
        if piece.is_empty() {
            return Ok(());
        }
        self.pieces.send(Ok(piece)).await.map_err(|_| Ended)
    }
}
