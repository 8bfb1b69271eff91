//! The integration tests, one binary: linked once.

#[cfg(test)]
mod case;
#[cfg(test)]
mod golden;
