//! Bad input: each a clear error with the right code, nothing leaked, nothing lost (the
//! leak check after each test sees to the second part).

mod images;
mod network;
mod requests;
