//! Numbers to pictures.
