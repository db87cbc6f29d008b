// SPDX-License-Identifier: Apache-2.0
use berth_domain::Meaning;
use berth_registry::{Auth, Client};

use crate::support::{Server, client, config, reply};

const ANSWER: &str = r#"{"num_results":2,"query":"a b","results":[
    {"name":"one","description":"first","star_count":7,"is_official":true,"is_automated":false},
    {"name":"two/b","description":null,"star_count":0}]}"#;

#[tokio::test]
async fn the_hubs_index_is_asked() {
    let server = Server::http(|_| reply(200, ANSWER)).await;
    let mut config = config();
    config.docker_index = format!("http://{}", server.addr);
    let found = Client::new(config).unwrap().search("a b", 25, &Auth::anonymous()).await.unwrap();
    assert_eq!(server.paths(), ["/v1/search?q=a%20b&n=25"]);
    assert_eq!((found[0].name.as_str(), found[0].star_count, found[0].is_official), ("one", 7, true));
    assert_eq!(found[1].description, None);
}

#[tokio::test]
async fn a_registry_without_an_index_has_no_search() {
    let server = Server::http(|_| reply(404, "")).await;
    let term = format!("{}/a", server.addr);
    let error = client().search(&term, 5, &Auth::anonymous()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::NotFound);
}
