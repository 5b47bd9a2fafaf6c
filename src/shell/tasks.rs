//! Tasks are joined: a bug in any of them ends the process, which then starts again from what is stored.

use tokio::task::{JoinError, JoinSet};

/// The value of a task that has ended; `None` if it was aborted.
///
/// # Panics
/// As the task did.
pub fn joined<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(value) => Some(value),
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_aborted)) => None,
    }
}

/// Joins all of these until one panics, or until they have all ended.
///
/// # Panics
/// As the first task that does.
pub async fn join_all<T: 'static>(tasks: &mut JoinSet<T>) {
    while let Some(ended) = tasks.join_next().await {
        joined(ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_one_of_several_tasks_is_that_of_whoever_joins_them() {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending::<()>());
        tasks.spawn(async { std::panic::resume_unwind(Box::new("a bug")) });
        let ended = tokio::spawn(async move { join_all(&mut tasks).await }).await;
        assert!(ended.is_err_and(|error| error.is_panic()));
    }

    #[tokio::test]
    async fn an_aborted_task_is_no_bug() {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending::<()>());
        tasks.abort_all();
        join_all(&mut tasks).await;
    }
}
