//! Where a test's store lives: a folder of its own, and for PostgreSQL a database of its own.

use kiln_store::Store;
use tempfile::TempDir;

use crate::server;

pub struct Place {
    pub folder: TempDir,
    pub url: Option<String>,
}

impl Place {
    pub fn sqlite() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), url: None }
    }

    pub async fn postgres() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), url: Some(server::database().await) }
    }

    pub async fn open(&self) -> Store {
        Store::open(self.folder.path(), self.url.as_deref(), false).await.unwrap()
    }

    /// What opening says when it is refused.
    pub async fn refusal(&self) -> String {
        let opened = Store::open(self.folder.path(), self.url.as_deref(), false).await;
        opened.expect_err("it must be refused").to_string()
    }
}

/// Each function, as a test on SQLite and as one on PostgreSQL.
#[macro_export]
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::place::Place::sqlite()).await
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::place::Place::postgres().await).await
            })+
        }
    };
}
