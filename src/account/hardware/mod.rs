//! The arithmetic of models and the devices that serve them: bytes of weights and of KV cache, floating-point
//! operations, and the bounds that follow from a device's peak rates. Pure: numbers in, numbers out. What a model
//! really does is measured elsewhere; a bound says what it cannot beat.

mod architecture;
mod config_json;
mod device;
mod dtype;
mod known;
mod rent;
mod roofline;
mod written;

pub use architecture::{Architecture, Attention, Experts, Window};
pub use config_json::{Unreadable, read};
pub use device::{DEVICES, Device};
pub use dtype::Dtype;
pub use known::{KNOWN, Known, nearest};
pub use rent::{Paid, Rent};
pub use roofline::{Decode, Fleet, Limit, USABLE_PERCENT};
pub use written::count;
