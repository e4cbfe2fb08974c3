//! Item 8: images from a real registry.

mod auth;
mod layers;
mod names;
