//! Migrations: their sum is `schema/`, the same on both databases, and there is no way back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::on_both;
use crate::place::Place;
use crate::{sample, server};

on_both!(a_newer_schema_is_refused, a_schema_of_another_build_is_refused);

async fn a_newer_schema_is_refused(place: Place) {
    sample::project(&place.open().await, "a").await;
    let newer = "INSERT INTO schema_version VALUES (999, 'later', 'x', '9.8.7', 0)";
    change(&place, newer).await;
    let said = place.refusal().await;
    let expected = format!(
        "has schema 999, made by kiln 9.8.7; this is kiln {}, which knows schemas up to {}: use \
         kiln 9.8.7 or newer, or another data folder",
        env!("CARGO_PKG_VERSION"),
        migrations("sqlite").len()
    );
    assert!(said.ends_with(&expected), "{said}");
    change(&place, "DELETE FROM schema_version WHERE version = 999").await;
    assert_eq!(place.open().await.projects(1).await.unwrap().len(), 1);
}

async fn a_schema_of_another_build_is_refused(place: Place) {
    place.open().await;
    change(&place, "UPDATE schema_version SET checksum = 'x' WHERE version = 1").await;
    let said = place.refusal().await;
    assert!(said.contains("is not what this kiln"), "{said}");
    assert!(said.contains("`0001_first_light`"), "{said}");
}

/// Past the store, as somebody with another program.
async fn change(place: &Place, sql: &str) {
    match &place.url {
        Some(url) => server::execute(url, sql).await,
        None => sqlite(place).execute_batch(sql).unwrap(),
    }
}

fn sqlite(place: &Place) -> rusqlite::Connection {
    rusqlite::Connection::open(place.folder.path().join("kiln.db")).unwrap()
}

#[test]
fn a_migration_is_numbered_begins_with_why_and_is_there_for_both() {
    let names = |engine| -> Vec<_> {
        let files = migrations(engine);
        files.iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("sqlite"), names("postgres"));
    for (at, name) in names("sqlite").iter().enumerate() {
        assert!(name.starts_with(&format!("{:04}_", at + 1)), "{name}");
    }
    for file in migrations("sqlite").iter().chain(&migrations("postgres")) {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.starts_with("-- "), "`{}` does not say why", file.display());
    }
}

fn migrations(engine: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(engine);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[tokio::test]
async fn the_schema_of_sqlite_is_the_sum_of_its_migrations() {
    let place = Place::sqlite();
    drop(place.open().await);
    let db = sqlite(&place);
    let mut list =
        db.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY tbl_name, rowid");
    let list = list.as_mut().unwrap();
    let mut fresh = String::new();
    for sql in list.query_map([], |row| row.get::<_, String>(0)).unwrap() {
        writeln!(fresh, "{};", sql.unwrap()).unwrap();
    }
    // SQLite's own, made with the first AUTOINCREMENT.
    compare("sqlite", &fresh.replace("CREATE TABLE sqlite_sequence(name,seq);\n", ""));
    let n: u32 = db.query_row("SELECT COUNT(*) FROM schema_version", [], |row| row.get(0)).unwrap();
    assert_eq!(n as usize, migrations("sqlite").len(), "a file is not in the list");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_of_postgres_is_the_sum_of_its_migrations() {
    let place = Place::postgres().await;
    drop(place.open().await);
    compare("postgres", &catalogue(place.url.as_ref().unwrap()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_databases_have_the_same_columns() {
    let (one, other) = (Place::sqlite(), Place::postgres().await);
    drop((one.open().await, other.open().await));
    let db = sqlite(&one);
    let sql = "SELECT t.name, c.name, c.\"notnull\" OR c.pk > 0 FROM sqlite_schema t, \
               pragma_table_info(t.name) c \
               WHERE t.type = 'table' AND t.name <> 'sqlite_sequence'";
    let mut list = db.prepare(sql).unwrap();
    let column = |row: &rusqlite::Row<'_>| -> rusqlite::Result<(String, String, bool)> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    };
    let in_sqlite: BTreeSet<_> = list.query_map([], column).unwrap().map(Result::unwrap).collect();
    let sql = "SELECT table_name::text, column_name::text, is_nullable = 'NO' \
               FROM information_schema.columns WHERE table_schema = 'public'";
    let rows = server::query(other.url.as_ref().unwrap(), sql).await;
    let in_postgres: BTreeSet<_> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(in_sqlite, in_postgres);
}

/// As statements, in words of the catalogue, which do not change with PostgreSQL's version.
async fn catalogue(url: &str) -> String {
    let columns = "SELECT table_name::text, column_name || ' ' || upper(data_type) \
                   || CASE is_nullable WHEN 'NO' THEN ' NOT NULL' ELSE '' END \
                   || COALESCE(' DEFAULT ' || column_default, '') \
                   || CASE is_identity WHEN 'YES' THEN ' GENERATED ' || identity_generation \
                   || ' AS IDENTITY' ELSE '' END \
                   FROM information_schema.columns WHERE table_schema = 'public' \
                   ORDER BY table_name, ordinal_position";
    let constraints = "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) \
                       FROM pg_constraint WHERE connamespace = 'public'::regnamespace \
                       AND contype <> 'n' ORDER BY 1, 2";
    let indexes = "SELECT replace(pg_get_indexdef(indexrelid), 'public.', '') AS line \
                   FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
                   WHERE c.relnamespace = 'public'::regnamespace AND NOT EXISTS \
                   (SELECT 1 FROM pg_constraint WHERE conindid = indexrelid) ORDER BY line";
    let mut tables = BTreeMap::<String, Vec<String>>::new();
    for sql in [columns, constraints] {
        for row in server::query(url, sql).await {
            tables.entry(row.get(0)).or_default().push(row.get(1));
        }
    }
    let mut text = String::new();
    for (table, lines) in tables {
        writeln!(text, "CREATE TABLE {table} (\n    {}\n);", lines.join(",\n    ")).unwrap();
    }
    for row in server::query(url, indexes).await {
        writeln!(text, "{};", row.get::<_, String>(0)).unwrap();
    }
    text
}

/// With `KILN_BLESS=1` the file is written first.
fn compare(engine: &str, fresh: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schema/{engine}.sql"));
    let fresh = format!("-- Made from the migrations by the tests of kiln-store.\n{fresh}");
    if std::env::var_os("KILN_BLESS").is_some() {
        std::fs::write(&file, &fresh).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        kept == fresh,
        "`{}` is not the sum of the migrations: run this test with KILN_BLESS=1 and look at the \
         difference",
        file.display()
    );
}
