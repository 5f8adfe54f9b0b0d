# Writes records in one region and reads them in every region, with meridian's own commands.

terraform {
  required_version = ">= 1.9"
}

variable "meridian" {
  type = string
}

variable "configs" {
  description = "A file for `meridian --config`, by region."
  type        = map(string)
}

variable "home" {
  description = "Where the topic lives; every other region mirrors it."
  type        = string
}

locals {
  topic   = "flow"
  records = 500
}

resource "terraform_data" "written" {
  provisioner "local-exec" {
    command = <<-EOT
      set -e
      "$MERIDIAN" topic create "$TOPIC" --partitions 3 --mirrors "$MIRRORS" --config "$CONFIG"
      seq 1 "$RECORDS" | sed 's/.*/key-&|record &/' | "$MERIDIAN" produce "$TOPIC" --key-separator '|' --config "$CONFIG"
    EOT
    environment = {
      MERIDIAN = var.meridian
      TOPIC    = local.topic
      RECORDS  = local.records
      MIRRORS  = join(",", [for region in keys(var.configs) : region if region != var.home])
      CONFIG   = var.configs[var.home]
    }
  }
}

resource "terraform_data" "read" {
  for_each   = var.configs
  depends_on = [terraform_data.written]
  input      = "${dirname(each.value)}/flow.jsonl"

  provisioner "local-exec" {
    # Partitions come in any order.
    command = "timeout 30 \"$MERIDIAN\" consume \"$TOPIC\" --count \"$RECORDS\" --format json --config \"$CONFIG\" | sort >\"$FILE\""
    environment = {
      MERIDIAN = var.meridian
      TOPIC    = local.topic
      RECORDS  = local.records
      CONFIG   = each.value
      FILE     = self.input
    }
  }
}

output "records" {
  value = local.records
}

output "reads" {
  description = "Every record read, by region."
  value       = { for region, read in terraform_data.read : region => split("\n", trimspace(file(read.output))) }
}
