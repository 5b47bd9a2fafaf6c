//! What the operator asks of the API server, and who uses its tokens, as the audit log tells both. It is read again and
//! again, so these tests have a control plane whose log is short.

mod audit;
mod audit_join;
mod bindings;
