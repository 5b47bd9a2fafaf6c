//! What people see in Prometheus and Grafana: scrapes, alerts, their runbooks and the dashboard, by Prometheus' own programs.

mod alerts;
mod component;
mod dashboard;
mod live;
mod runbooks;
mod scrape;
