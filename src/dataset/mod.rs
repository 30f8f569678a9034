//! Datasets: catalog, readers, fetch.
