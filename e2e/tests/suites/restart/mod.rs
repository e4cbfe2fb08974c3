//! Item 9: `kill -9` of the server at any instant, then a new server: nothing leaked,
//! nothing acknowledged lost, containers untouched, exits in between told with their code
//! and time.

mod failpoints;
mod matrix;
mod reboot;
mod survival;
