//! Summaries to documents.
