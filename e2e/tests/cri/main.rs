//! Every CRI call of the first pod, each test named after the statement it proves.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]

mod lifecycle;
