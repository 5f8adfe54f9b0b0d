# `terraform test`: a real mesh is started, written to in one region, read in both, and destroyed. The caller names the binary and the folder (TF_VAR_meridian, TF_VAR_folder).

variables {
  regions     = ["us", "eu"]
  nodes       = 1
  remove_data = true
}

run "every_node_serves" {
  # The check block is part of it: a node that does not run fails the run.
  assert {
    condition     = output.bootstrap["us"] == "127.0.0.1:${var.port_base}" && output.bootstrap["eu"] == "127.0.0.1:${var.port_base + 100}"
    error_message = "Ports are not where the documentation says: ${jsonencode(output.bootstrap)}"
  }
  assert {
    condition     = alltrue([for home in values(output.homes) : trimspace(file("${home}/data/ready")) == trimspace(file("${home}/data/node.pid"))])
    error_message = "A node runs but does not serve."
  }
  assert {
    condition     = fileexists(output.ca) && fileexists(output.admin_token) && alltrue([for file in values(output.client_properties) : fileexists(file)])
    error_message = "A file that clients need is missing."
  }
}

run "both_regions_read_the_same" {
  module {
    source = "./tests/flow"
  }
  variables {
    meridian = abspath(var.meridian)
    configs  = run.every_node_serves.config
    home     = "us"
  }
  assert {
    condition     = alltrue([for region, read in output.reads : length(read) == output.records])
    error_message = "Not every record was read: ${jsonencode({ for region, read in output.reads : region => length(read) })}"
  }
  assert {
    # Partitions, offsets, times, keys and values.
    condition     = output.reads["us"] == output.reads["eu"]
    error_message = "The regions hold different records, or at different offsets."
  }
}

run "nothing_changes_by_itself" {
  command = plan
  assert {
    condition     = length(output.homes) == 2
    error_message = "A second plan must see the same nodes."
  }
}
