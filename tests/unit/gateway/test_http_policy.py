"""Who sees what: lists of all projects, and where a server is."""

from pathlib import Path

from tests.http.application import create_application
from tests.http.fleet import DUMPED, HOST, OTHER_PROJECT, PANICKED_ACTION, PROJECT

ALL = "os_compute_api:servers:detail:get_all_tenants"
AUDITOR = {"X-Roles": "reader,auditor", "X-Project-Id": PROJECT}


def test_who_may_list_all_projects_can_read_every_page_of_them(tmp_path: Path) -> None:
    application = create_application(tmp_path, policy={ALL: "role:auditor"})
    seen: list[str] = []
    query = "all_tenants=1&limit=1"
    while query:
        answer = application.client.simulate_get("/v2.1/servers/detail", query_string=query, headers=AUDITOR)
        assert answer.status_code == 200, answer.text
        seen += [server["tenant_id"] for server in answer.json["servers"]]
        query = answer.json["servers_links"][0]["href"].partition("?")[2] if answer.json["servers"] else ""
    application.close()
    assert set(seen) == {PROJECT, OTHER_PROJECT}


def test_a_marker_of_another_project_is_none_for_others(tmp_path: Path) -> None:
    application = create_application(tmp_path)
    everybody = application.client.simulate_get("/v2.1/servers/detail", query_string="all_tenants=1")
    foreign = next(server["id"] for server in everybody.json["servers"] if server["tenant_id"] == OTHER_PROJECT)
    answer = application.client.simulate_get("/v2.1/servers", query_string=f"marker={foreign}", headers={"X-Roles": "member"})
    application.close()
    assert (answer.status_code, answer.json["badRequest"]["message"]) == (400, f"marker [{foreign}] not found")


def test_where_it_happened_is_told_to_those_who_may_see_where_servers_are(tmp_path: Path) -> None:
    application = create_application(tmp_path)
    for url in (f"/v1/actions/{PANICKED_ACTION}", f"/v1/servers/{DUMPED}/actions"):
        assert HOST in application.client.simulate_get(url).text
        answer = application.client.simulate_get(url, headers={"X-Roles": "member"})
        assert answer.status_code == 200
        assert HOST not in answer.text
    application.close()
