//! What is on the wire, term by term, and what comes of a hostile one.
