# A real mesh on one machine: every node is a `meridian serve` process with its own folder, certificate and ports.

locals {
  meridian = abspath(var.meridian)
  folder   = abspath(var.folder)
  scripts  = abspath("${path.module}/scripts")

  nodes = merge([
    for number, region in var.regions : {
      for node in range(1, var.nodes + 1) : "${region}/${node}" => {
        region = region
        home   = "${local.folder}/${region}/${node}"
        kafka  = "127.0.0.1:${var.port_base + 100 * number + 10 * (node - 1)}"
        admin  = "127.0.0.1:${var.port_base + 100 * number + 10 * (node - 1) + 2}"
      }
    }
  ]...)
}

# Certificates, configuration files, tokens. Idempotent: keys and data that are there stay.
resource "terraform_data" "folder" {
  input = {
    folder = local.folder
    remove = var.remove_data
  }
  triggers_replace = [local.folder, var.regions, var.nodes, var.port_base]

  provisioner "local-exec" {
    command = "\"$MERIDIAN\" dev --init-only --data-dir \"$FOLDER\" --regions \"$REGIONS\" --nodes \"$NODES\" --port-base \"$PORT_BASE\" >/dev/null"
    environment = {
      MERIDIAN  = local.meridian
      FOLDER    = local.folder
      REGIONS   = join(",", var.regions)
      NODES     = var.nodes
      PORT_BASE = var.port_base
    }
  }

  provisioner "local-exec" {
    when = destroy
    # Only what looks like a mesh is removed.
    command = "if [ \"$REMOVE\" = true ] && [ -f \"$FOLDER/layout.json\" ]; then rm -rf \"$FOLDER\"; fi"
    environment = {
      FOLDER = self.output.folder
      REMOVE = self.output.remove
    }
  }
}

resource "terraform_data" "node" {
  for_each = local.nodes

  input = {
    home = each.value.home
    stop = "${local.scripts}/stop.sh"
  }
  triggers_replace = [each.value, terraform_data.folder.id]

  provisioner "local-exec" {
    command = "'${local.scripts}/start.sh' \"$MERIDIAN\" \"$NODE_HOME\""
    environment = {
      MERIDIAN  = local.meridian
      NODE_HOME = each.value.home
    }
  }

  provisioner "local-exec" {
    when    = destroy
    command = "\"$STOP\" \"$NODE_HOME\""
    environment = {
      STOP      = self.output.stop
      NODE_HOME = self.output.home
    }
  }
}

# A node serves when a majority of its region runs, so nobody waits before all have started.
resource "terraform_data" "region" {
  for_each         = toset(var.regions)
  triggers_replace = [for name, node in local.nodes : terraform_data.node[name].id if node.region == each.key]

  provisioner "local-exec" {
    command = join(" ", concat(["'${local.scripts}/ready.sh'"], [for node in local.nodes : "'${node.home}'" if node.region == each.key]))
  }
}

# What `meridian … --config FILE` takes, a file for each region: the region's brokers, and every region's admin endpoints for `mesh status`.
resource "terraform_data" "client" {
  for_each = toset(var.regions)

  input = {
    file = "${local.folder}/${each.key}/meridian.toml"
    text = <<-EOT
      bootstrap = "${join(",", [for node in local.nodes : node.kafka if node.region == each.key])}"
      ca = "${local.folder}/ca.pem"
      token_file = "${local.folder}/admin.token"
      admin = "${join(",", [for node in local.nodes : node.admin])}"
    EOT
  }
  triggers_replace = [local.nodes, terraform_data.folder.id]

  provisioner "local-exec" {
    command = "printf %s \"$TEXT\" >\"$FILE\""
    environment = {
      FILE = self.input.file
      TEXT = self.input.text
    }
  }
}

# Rolls nodes that run another binary: one at a time, each back in service before the next, region after region.
resource "terraform_data" "version" {
  triggers_replace = filesha256(var.meridian)
  depends_on       = [terraform_data.region]

  provisioner "local-exec" {
    command = join(" ", concat(
      ["'${local.scripts}/roll.sh'", "\"$MERIDIAN\""],
      flatten([for region in var.regions : [for node in range(1, var.nodes + 1) : "'${local.folder}/${region}/${node}'"]]),
    ))
    environment = { MERIDIAN = local.meridian }
  }
}

# Drift: a node that died since, or that somebody stopped. A zombie does not run.
check "nodes_run" {
  assert {
    condition = alltrue([
      for name, node in local.nodes : try(
        !strcontains(file("/proc/${trimspace(file("${terraform_data.node[name].output.home}/data/node.pid"))}/status"), "(zombie)"), false
      )
    ])
    error_message = "A node does not run. Its node.log says why; start it again with: terraform apply -replace='terraform_data.node[\"REGION/NODE\"]'"
  }
}
