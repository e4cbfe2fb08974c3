//! The Stream* lists: the same objects as the list of the same name, each once, in messages small enough for any
//! client, then the end. An empty list is an end without a message.
//!
//! What the one reply of a list cannot carry (a client takes 16 MiB) many can: that is what these RPCs are for
//! (KEP 5825). The objects are those of one moment.

use std::pin::Pin;

use futures_util::stream::{self, Stream, StreamExt as _};
use prost::Message;
use tonic::Status;

/// Objects in one message.
const OBJECTS: usize = 64;
/// Bytes in one message, unless one object alone is larger.
const BYTES: usize = 1 << 20;

/// What a streaming RPC answers with.
pub(crate) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Cuts `all` into messages, which `wrap` makes.
pub(crate) fn chunks<O, T>(all: Vec<O>, wrap: impl Fn(Vec<O>) -> T + Send + 'static) -> Streamed<T>
where
    O: Message + 'static,
    T: Send + 'static,
{
    let cut = cut(all, OBJECTS, BYTES);
    stream::iter(cut).map(move |chunk| Ok(wrap(chunk))).boxed()
}

fn cut<O: Message>(all: Vec<O>, objects: usize, bytes: usize) -> Vec<Vec<O>> {
    let (mut done, mut now, mut size) = (Vec::new(), Vec::new(), 0);
    for object in all {
        let length = object.encoded_len();
        if !now.is_empty() && (now.len() == objects || size + length > bytes) {
            done.push(std::mem::take(&mut now));
            size = 0;
        }
        size += length;
        now.push(object);
    }
    if !now.is_empty() {
        done.push(now);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(of: &[&str]) -> Vec<String> {
        of.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn each_object_is_in_one_message_and_no_message_is_empty() {
        let all = words(&["a", "b", "c", "d", "e"]);
        assert_eq!(
            cut(all.clone(), 2, 1000),
            [words(&["a", "b"]), words(&["c", "d"]), words(&["e"])]
        );
        assert_eq!(cut(Vec::<String>::new(), 2, 1000), Vec::<Vec<String>>::new());
        assert_eq!(cut(all.clone(), 5, 1000), [all]);
    }

    #[test]
    fn a_large_object_goes_alone() {
        let large = "x".repeat(100);
        let all = words(&["a", &large, "b", "c"]);
        assert_eq!(cut(all, 10, 50), [words(&["a"]), words(&[&large]), words(&["b", "c"])]);
    }

    #[tokio::test]
    async fn the_stream_ends_after_the_last() {
        let made: Vec<_> = chunks(words(&["a"; 130]), |chunk| chunk.len()).collect().await;
        let sizes: Vec<usize> = made.into_iter().map(Result::unwrap).collect();
        assert_eq!(sizes, [64, 64, 2]);
    }
}
