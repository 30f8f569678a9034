//! What an answer means, decided by rules; pure.
