//! Admission on a real API server: who may ask for tokens, how far, and what the operator's own identity may not do.

mod authors_and_limits;
mod operator;
mod overlays;
mod words;
