"""What a program with openstacksdk does: ``sdk_script.py SERVER``; says as JSON what it got. Runs in the environment of the clients."""

import json
import sys

import openstack


def main(server_id: str) -> None:
    compute = openstack.connect().compute
    found = compute.find_server(server_id)
    told = {"found": found.id, "listed": [server.id for server in compute.servers()], "status": compute.get_server(server_id).status}

    before = {action.request_id for action in compute.server_actions(server_id)}
    compute.trigger_server_crash_dump(server_id)
    (told["action"],) = {action.request_id for action in compute.server_actions(server_id)} - before
    shown = compute.get_server_action(told["action"], server_id)
    told["shown"] = {"action": shown.action, "request_id": shown.request_id, "server": shown.server_id}

    compute.lock_server(server_id)
    told["locked"] = compute.get_server(server_id).is_locked
    compute.unlock_server(server_id)
    told["unlocked"] = compute.get_server(server_id).is_locked
    try:
        diagnostics = compute.get_server_diagnostics(server_id)
        told["diagnostics"] = {"state": diagnostics.state, "driver": diagnostics.driver, "num_cpus": diagnostics.num_cpus}
    except openstack.exceptions.ForbiddenException as error:
        told["diagnostics"] = str(error.details)
    print(json.dumps(told))


main(sys.argv[1])
