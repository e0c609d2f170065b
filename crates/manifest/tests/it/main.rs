//! The manifest as its users meet it: text in, plan or complaints out.

mod cases;
mod hostile;
mod random;
mod schema;
