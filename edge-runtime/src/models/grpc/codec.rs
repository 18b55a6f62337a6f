//! How messages become bytes.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Reads `R`, writes `A`. A message that cannot be read is its client's fault.
pub(super) struct Protobuf<R, A>(PhantomData<(R, A)>);

impl<R, A> Default for Protobuf<R, A> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

pub(super) struct Reader<R>(PhantomData<R>);
pub(super) struct Writer<A>(PhantomData<A>);

impl<R, A> Codec for Protobuf<R, A>
where
    R: Message + Default + 'static,
    A: Message + 'static,
{
    type Encode = A;
    type Decode = R;
    type Encoder = Writer<A>;
    type Decoder = Reader<R>;

    fn encoder(&mut self) -> Writer<A> {
        Writer(PhantomData)
    }

    fn decoder(&mut self) -> Reader<R> {
        Reader(PhantomData)
    }
}

impl<R: Message + Default> Decoder for Reader<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        let message = R::decode(buffer);
        message.map(Some).map_err(|error| {
            Status::invalid_argument(format!(
                "the message is not what this method takes: {error}"
            ))
        })
    }
}

impl<A: Message> Encoder for Writer<A> {
    type Item = A;
    type Error = Status;

    fn encode(&mut self, message: A, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let encoded = message.encode(buffer);
        encoded.map_err(|error| Status::internal(format!("the answer cannot be written: {error}")))
    }
}
