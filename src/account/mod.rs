//! What an exchange means: who asked, for which model, how many tokens. Pure: values in, values out.

pub mod budget;
pub mod hardware;
pub mod jwks;
pub mod jwt;
pub mod learned;
pub mod meter;
pub mod model;
pub mod price;
pub mod quota;
pub mod settle;
pub mod slo;
pub mod tenant;
pub mod tokenize;
