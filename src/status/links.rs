//! Links to Prefect's user interface and to the documentation.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;

use crate::settings::{CLOUD, Cloud};

/// All characters except the unreserved ones of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Prefect's user interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ui(Option<String>);

impl Ui {
    /// The user interface for the API at `api`: a server has both at the same address, Prefect Cloud
    /// at different ones.
    pub(super) fn of(api: &Url) -> Self {
        let mut ui = api.clone();
        ui.set_query(None);
        ui.set_fragment(None);
        let path = match Cloud::at(api) {
            Some(Cloud { account, workspace }) => {
                if ui.set_host(Some("app.prefect.cloud")).is_err() {
                    return Ui(None);
                }
                format!("/account/{account}/workspace/{workspace}")
            }
            None if api.host_str() == Some(CLOUD) => return Ui(None),
            None => match api.path().trim_end_matches('/').strip_suffix("/api") {
                Some(base) => base.to_owned(),
                None => return Ui(None),
            },
        };
        ui.set_path(&path);
        Ui(Some(ui.as_str().trim_end_matches('/').to_owned()))
    }

    pub(super) fn home(&self) -> Option<String> {
        self.0.clone()
    }

    pub(super) fn deployment(&self, id: &str) -> Option<String> {
        self.at("deployments/deployment", id)
    }

    pub(super) fn flow_run(&self, id: &str) -> Option<String> {
        self.at("runs/flow-run", id)
    }

    fn at(&self, path: &str, id: &str) -> Option<String> {
        let id = utf8_percent_encode(id, RESERVED);
        self.0.as_ref().map(|ui| format!("{ui}/{path}/{id}"))
    }
}

/// The URL of a file in the repository, if the package metadata has the repository's URL.
pub(super) fn documentation(path: &str) -> Option<String> {
    let (repository, version) = (env!("CARGO_PKG_REPOSITORY"), env!("CARGO_PKG_VERSION"));
    (!repository.is_empty()).then(|| format!("{repository}/blob/v{version}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ui(api: &str) -> Ui {
        Ui::of(&Url::parse(api).unwrap())
    }

    #[test]
    fn a_server_has_its_user_interface_at_the_address_of_the_api() {
        for (api, home) in [
            ("http://prefect:4200/api", "http://prefect:4200"),
            ("https://x.example/prefect/api", "https://x.example/prefect"),
            (
                "http://prefect:4200/api?token=secret",
                "http://prefect:4200",
            ),
        ] {
            assert_eq!(ui(api).home().as_deref(), Some(home), "{api}");
        }
        assert_eq!(ui("http://prefect:4200/other").home(), None);
    }

    #[test]
    fn a_workspace_of_prefect_cloud_has_its_own_page() {
        let cloud = ui("https://api.prefect.cloud/api/accounts/a-1/workspaces/w-2");
        let home = "https://app.prefect.cloud/account/a-1/workspace/w-2";
        assert_eq!(cloud.home().as_deref(), Some(home));
        let deployment = cloud.deployment("d/3").unwrap();
        assert_eq!(deployment, format!("{home}/deployments/deployment/d%2F3"));
        assert_eq!(ui("https://api.prefect.cloud/api").home(), None);
    }
}
