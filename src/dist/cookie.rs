//! stub
/// stub
pub struct Cookie;
