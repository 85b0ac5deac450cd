//! The device's key, the spool of signed reports, and handing them to the courier.
