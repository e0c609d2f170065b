//! What a post-receive hook tells.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use kiln_api::user::{Push, PushAnswer};

use super::Error;
use super::extract::Given;
use crate::reconcile::delivery::{self, DeliveryError};
use crate::reconcile::{again, inbox};
use crate::state::App;

/// Take a push. It is durable when this answers; the answer names the runs that it started.
///
/// Errors: `project_not_found`.
pub async fn take(
    State(app): State<App>,
    Given(push): Given<Push>,
) -> Result<Json<PushAnswer>, Error> {
    // Its own task: a hook that hangs up must not leave half a delivery.
    let (taking, name) = (app.clone(), push.project.clone());
    let taken = app.tasks.spawn(async move { delivery::take(&taking, push).await }).await;
    let answer = match taken {
        Ok(Ok(answer)) => answer,
        Ok(Err(error @ DeliveryError::NoProject(_))) => {
            return Err(Error::new(StatusCode::NOT_FOUND, "project_not_found", error.to_string()));
        }
        Ok(Err(DeliveryError::Store(error))) => {
            again::soon(&app, &name);
            return Err(error.into());
        }
        Err(panic) => return Err(Error::ours(&panic)),
    };
    // A hook that got no answer a moment ago has left its push there.
    app.tasks.clone().spawn(async move { inbox::read(&app).await });
    Ok(Json(answer))
}
