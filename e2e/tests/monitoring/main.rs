//! What people see in Prometheus: scrapes, alerts and their runbooks, by Prometheus' own programs.

mod alerts;
mod component;
mod runbooks;
mod scrape;
