//! git against real repositories, made with the `git` of the system.

mod repository;

mod checkout;
mod lend;
mod mirror;
mod working_tree;
mod nasty;
