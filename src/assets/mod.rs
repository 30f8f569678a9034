//! Files that are compiled into the binary.
